from pathlib import Path

import pytest

from nas_distill.common.errors import RunError
from nas_distill.config import CurriculumConfig, ScoreConfig
from nas_distill.run.facts import FINISHED, HOST, SEED, VERSIONS, read_facts
from nas_distill.run.folder import RunFolder
from nas_distill.run.identity import hold_identity, identity_of
from nas_distill.run.journal import open_journal


def test_facts_come_back_as_json_and_cannot_be_set_by_a_reader(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        facts = open_journal(folder, directions=["maximize"], names=["quality"]).facts
        facts.set("table", {"rows": (1, 2)})
        size = folder.journal.stat().st_size
        facts.set("table", {"rows": [1, 2]})
        assert folder.journal.stat().st_size == size  # the same again is not written again
        facts.set("table", {"rows": [3]})
        assert facts["table"] == {"rows": [3]}
        with pytest.raises(TypeError):
            facts.set("model", object())
    read = read_facts(folder)
    assert dict(read) == {"table": {"rows": [3]}}
    with pytest.raises(TypeError, match="opened for reading"):
        read.set("table", 1)


def test_a_run_is_finished_once_it_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        facts = open_journal(folder, directions=["maximize"], names=["quality"]).facts
        assert not facts.finished
        facts.set(FINISHED, True)
    assert read_facts(folder).finished


def test_the_environment_is_that_of_the_beginning(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        open_journal(folder, directions=["maximize"], names=["quality"]).facts.record_environment(7)
        open_journal(folder, directions=["maximize"], names=["quality"]).facts.record_environment(8)
    facts = read_facts(folder)
    assert facts[SEED] == 7
    assert "processor" in facts[HOST]
    assert {"python", "torch", "optuna"} <= set(facts[VERSIONS])


def test_a_resumed_run_must_be_the_same_search(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = identity_of(data="abc", space={"b": [1, 2], "a": 1}, score=(3.0, 0.1))
    with folder.lock():
        facts = open_journal(folder, directions=["maximize"], names=["quality"]).facts
        hold_identity(folder, facts, first)
        hold_identity(folder, facts, identity_of(score=[3.0, 0.1], data="abc", space={"a": 1, "b": [1, 2]}))
        with pytest.raises(RunError, match="begun with another 'data', 'score', so"):
            hold_identity(folder, facts, {**first, "data": "x", "score": "y"})
        with pytest.raises(RunError, match="another 'latency'"):
            hold_identity(folder, facts, {**first, "latency": "x"})


def test_a_key_that_is_null_is_as_if_it_were_not_there():
    """So that a run of before a key was known may still be gone on with."""
    score = ScoreConfig()
    assert score.training.curriculum is None
    known = {key: value for key, value in score.model_dump(mode="json").items() if key != "curriculum"}
    known["loss"] = [{key: value for key, value in term.items() if value is not None} for term in known["loss"]]
    assert identity_of(score=score) == identity_of(score=known)
    assert identity_of(score=ScoreConfig(curriculum=CurriculumConfig())) != identity_of(score=known)


def test_versions_that_changed_since_the_run_began_are_told(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        facts = open_journal(folder, directions=["maximize"], names=["quality"]).facts
        facts.record_environment(1)
        assert facts.changed_versions() == {}
        then = facts["versions"]["torch"]
        monkeypatch.setattr(
            "nas_distill.run.facts.versions", lambda: {**facts["versions"], "torch": "99.0", "optuna": "99.0"}
        )
        assert facts.changed_versions() == {"torch": (then, "99.0")}
