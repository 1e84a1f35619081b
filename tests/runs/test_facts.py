import json
import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial
from pydantic import ValidationError

from nas_distill.config import CurriculumConfig, ScoreConfig
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import (
    Journal,
    check_identity,
    identity_of,
    metadata_of,
    open_journal,
    read_metadata,
    read_study,
)
from nas_distill.runs.metadata import (
    SCHEMA_VERSION,
    Finalist,
    LatencyRecord,
    Phase,
    RunMetadata,
    TeacherRecord,
    versions,
)
from nas_distill.runs.records import read_records
from nas_distill.utils.errors import RunError


def opened(folder: RunFolder) -> Journal:
    return open_journal(folder, directions=["maximize"], names=["quality"])


def test_metadata_comes_back_as_it_was_noted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    finalist = Finalist(
        key="t00000", trial=0, architecture={"w": [1]}, costs={"flops": 1.0}, taught=True, score=math.nan
    )
    with folder.lock():
        journal = opened(folder)
        journal.note(margin=[0.1, 0.2], timings={Phase.SEARCH: 2.5}, phase=Phase.SEARCH, reference={"flops": math.inf})
        journal.note(finalists={"t00000": finalist}, latency=LatencyRecord(model=None, teacher_ms=None))
        size = folder.journal.stat().st_size
        journal.note(margin=(0.1, 0.2), timings={"search": 2.5})
        assert folder.journal.stat().st_size == size  # the same again is not written again
        journal.note(phase=None)
        assert folder.journal.stat().st_size > size
        noted = journal.metadata
    read = read_metadata(folder)
    assert read.model_dump_json() == noted.model_dump_json()
    assert (read.margin, read.timings, read.phase) == ((0.1, 0.2), {Phase.SEARCH: 2.5}, None)
    assert next(iter(read.timings)) is Phase.SEARCH
    assert math.isnan(read.finalists["t00000"].score or 0.0)
    assert read.reference == {"flops": math.inf}
    assert read.latency == LatencyRecord(model=None, teacher_ms=None)  # looked for, and not there
    assert read.exports is read.evaluation is None


@pytest.mark.parametrize(
    "change", [{"phse": "search"}, {"phase": "searching"}, {"seed": "x"}, {"teacher": {"name": "t"}}]
)
def test_an_unknown_field_and_a_wrong_value_are_refused_before_they_are_written(tmp_path: Path, change: object) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        journal = opened(folder)
        content = folder.journal.read_bytes()
        with pytest.raises(ValidationError):
            journal.note(**change)
        assert folder.journal.read_bytes() == content


def test_metadata_cannot_be_changed_in_place() -> None:
    metadata = RunMetadata(teacher=TeacherRecord(name="t", costs={}, validation=0.5))
    with pytest.raises(ValidationError):
        metadata.finished = True
    with pytest.raises(ValidationError):
        metadata.teacher.validation = 1.0


def written(folder: RunFolder, attributes: dict[str, object], *, trials: int = 1) -> RunFolder:
    """A run as another version has left it."""
    with folder.lock():
        journal = opened(folder)
        for index in range(trials):
            attrs = {"key": f"t{index:05}", "index": index}
            journal.add(create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attrs))
        for name, value in attributes.items():
            journal._set(name, value)
    return folder


def without_version(folder: RunFolder) -> RunFolder:
    """The same journal as version 1 wrote it: no line tells a version, and none is sealed."""
    lines = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    kept = [line for line in lines if "schema_version" not in line.get("user_attr", {})]
    plain = [{key: value for key, value in line.items() if key not in ("line", "digest")} for line in kept]
    folder.journal.write_text("".join(json.dumps(line) + "\n" for line in plain))
    return folder


@pytest.mark.parametrize(
    ("attributes", "when"),
    [
        ({"schema_version": SCHEMA_VERSION - 1}, "an earlier version"),
        ({"schema_version": SCHEMA_VERSION + 1, "new": 1}, "a later version"),
        ({"guess": 0.1, "phase": "search"}, "an earlier version"),
        ({}, "an earlier version"),
    ],
    ids=["older", "newer", "unversioned", "unversioned, killed before it noted anything else"],
)
def test_a_run_of_another_version_is_refused_by_all_that_open_it(tmp_path: Path, attributes, when) -> None:
    folder = written(RunFolder(tmp_path), attributes)
    if "schema_version" not in attributes:
        without_version(folder)
    content = folder.journal.read_bytes()
    message = rf"study\.journal was written by {when} of nas_distill .*; open the run with the version that wrote it"
    for read in (read_metadata, read_study, lambda where: read_records(read_study(where))):
        with pytest.raises(RunError, match=message):
            read(folder)
    with folder.lock(), pytest.raises(RunError, match=message):
        opened(folder)
    assert folder.journal.read_bytes() == content


@pytest.mark.parametrize("version", ["2", None, 2.5, True, [2]])
def test_a_version_that_is_none_is_damage(tmp_path: Path, version: object) -> None:
    folder = written(RunFolder(tmp_path), {"schema_version": version})
    with pytest.raises(RunError, match=r"'schema_version' is .* which is not a version; restore"):
        read_metadata(folder)


@pytest.mark.parametrize(
    ("attributes", "field"),
    [
        ({"guess": 0.1}, "guess"),
        ({"phase": "searching"}, "phase"),
        ({"finalists": {"t00000": {"key": "t00000"}}}, "finalists.t00000.trial"),
        ({"seed": "0"}, "seed"),
    ],
)
def test_an_invalid_field_of_this_version_is_named(tmp_path: Path, attributes, field) -> None:
    folder = written(RunFolder(tmp_path), attributes)
    with pytest.raises(RunError, match=f"'{field}' of the run's metadata is invalid .*; restore"):
        metadata_of(read_study(folder), folder.journal)


def test_a_run_that_died_before_it_wrote_its_version_is_begun_again(tmp_path: Path) -> None:
    folder = written(RunFolder(tmp_path), {}, trials=0)
    lines = folder.journal.read_text().splitlines(keepends=True)
    assert "schema_version" in lines.pop()
    folder.journal.write_text("".join(lines))
    assert read_metadata(folder) == RunMetadata()
    with folder.lock():
        opened(folder).note(seed=3)
    assert read_metadata(folder).seed == 3
    assert read_study(folder).user_attrs == {"schema_version": SCHEMA_VERSION, "seed": 3}


def test_the_environment_is_that_of_the_beginning(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        opened(folder).note_environment(7)
        opened(folder).note_environment(8)
    metadata = read_metadata(folder)
    assert metadata.seed == 7
    assert metadata.host is not None
    assert metadata.host.processor
    assert {"python", "torch", "optuna"} <= set(metadata.versions)


def test_a_resumed_run_must_be_the_same_search(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = identity_of(data="abc", space={"b": [1, 2], "a": 1}, score=(3.0, 0.1))
    with folder.lock():
        journal = opened(folder)
        check_identity(folder, journal, first)
        check_identity(folder, journal, identity_of(score=[3.0, 0.1], data="abc", space={"a": 1, "b": [1, 2]}))
        with pytest.raises(RunError, match="begun with another 'data', 'score', so"):
            check_identity(folder, journal, {**first, "data": "x", "score": "y"})
        with pytest.raises(RunError, match="another 'latency'"):
            check_identity(folder, journal, {**first, "latency": "x"})


def test_a_key_that_is_null_is_as_if_it_were_not_there():
    """So that a run of before a key was known may still be resumed."""
    score = ScoreConfig()
    assert score.training.curriculum is None
    known = {key: value for key, value in score.model_dump(mode="json").items() if key != "curriculum"}
    known["loss"] = [{key: value for key, value in term.items() if value is not None} for term in known["loss"]]
    assert identity_of(score=score) == identity_of(score=known)
    assert identity_of(score=ScoreConfig(curriculum=CurriculumConfig())) != identity_of(score=known)


def test_versions_that_changed_since_the_run_began_are_returned(monkeypatch):
    metadata = RunMetadata(versions=versions())
    assert metadata.changed_versions() == {}
    then = metadata.versions["torch"]
    now = {**metadata.versions, "torch": "99.0", "optuna": "99.0"}
    monkeypatch.setattr("nas_distill.runs.metadata.versions", lambda: now)
    assert metadata.changed_versions() == {"torch": (then, "99.0")}
