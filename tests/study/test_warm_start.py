"""Searches that begin with the finished trials of earlier runs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import nas_distill as nd
from nas_distill.config import SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import open_journal
from nas_distill.study.start import prepare
from nas_distill.study.warm_start import describe_warm_start, read_earlier_runs
from nas_distill.utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


def flops(architecture: Any) -> dict[str, float]:
    return {"flops": float(architecture.values["width"] * architecture.values["depth"])}


def read(given: dict[str, Any], quick: dict[str, Any], *runs: Path, **changes: Any) -> Any:
    """Return what a search that names ``runs`` takes from them; 'flops' are width x depth."""
    limit = changes.pop("limit", None)
    settings = {**quick, "warm_start": [str(run) for run in runs], **changes.pop("settings", {})}
    problem, _ = prepare(None, **{**given, **changes}, settings=settings)
    budget = Budget.parse({} if limit is None else {"flops": limit})
    return read_earlier_runs(problem, Pricing(flops, budget))


def complete(run: nd.Run) -> list[Any]:
    return [record for record in run.records if record.state == "complete"]


def test_a_search_takes_trials_whose_scores_compare(own_run, given, quick, tmp_path):
    changed = {**given, "budget": {"flops": "100%"}}  # scores do not depend on the budget
    run = nd.search(**changed, **{**quick, "trials": 2}, warm_start=own_run.folder.path, folder=tmp_path / "run")
    earlier = {record.number: record for record in complete(own_run)}
    taken = [record for record in run.records if record.taken is not None]
    assert [record.taken.trial for record in taken] == list(earlier)
    for record in taken:
        original = earlier[record.taken.trial]
        assert (record.architecture, record.rungs) == (original.architecture, original.rungs)
        assert record.costs == original.costs
        repeats = [other for other in run.records if other.architecture == record.architecture]
        assert [other.state for other in repeats[1:]] == ["duplicate"] * (len(repeats) - 1)
    status = run.status()
    assert (status["trained"], status["taken"]) == (2, len(taken))
    assert run.trials()["taken_from"].notna().sum() == len(taken)
    (note,) = [note for note in run.report().notes if "Warm start" in note]
    assert f"{len(taken)} finished trial" in note
    assert str(own_run.folder.path) in note
    assert run.report().savings.complete == sum(r.state == "complete" for r in run.records) - len(taken)


def test_only_architectures_are_taken_where_scores_do_not_compare(own_run, given, quick):
    best = max(complete(own_run), key=lambda record: record.final_quality)
    for changes, section in (
        ({"settings": {"score": {"epochs": 2, "batch_size": 32}}}, "score"),
        ({"seed": 5}, "seed"),
        ({"data": nd.Dataset.from_tensors(given["data"].train.x + 1, given["data"].train.y, val=0.2)}, "data"),
    ):
        (found,) = read(given, quick, own_run.folder.path, **changes)
        assert section in found.differs
        assert found.trials == ()
        assert best.architecture.to_dict() in found.candidates
        assert len(found.candidates) <= quick["seeds"]
        assert section in describe_warm_start([found])[0]


def test_those_outside_the_new_budget_are_left_out(own_run, given, quick):
    cost = sorted(flops(record.architecture)["flops"] for record in complete(own_run))
    (found,) = read(given, quick, own_run.folder.path, limit=cost[0])
    assert [trial.costs["flops"] for trial in found.trials] == [cost[0]] * cost.count(cost[0])
    assert found.outside == len(cost) - cost.count(cost[0])
    assert f"{found.outside} outside" in describe_warm_start([found])[0]


def test_an_architecture_is_taken_once(own_run, given, quick, tmp_path):
    copy = shutil.copytree(own_run.folder.path, tmp_path / "copy")
    one, other = read(given, quick, own_run.folder.path, copy)
    assert len(one.trials) == len(complete(own_run))
    assert other.trials == ()
    both = read(given, quick, own_run.folder.path, copy, seed=3, settings={"seeds": 1})
    assert [len(run.candidates) for run in both] == [1, 0]


def test_a_run_of_another_space_is_refused_before_anything_is_written(own_run, given, quick, tmp_path):
    other = {**given, "space": {"width": [4, 8], "depth": [1, 2]}}
    with pytest.raises(ConfigError, match="another search space") as error:
        nd.search(**other, **quick, warm_start=[own_run.folder.path], folder=tmp_path / "run", quiet=True)
    assert str(own_run.folder.path) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_runs_that_cannot_be_read_cost_a_sentence_each(own_run, given, quick, tmp_path):
    for name in ("empty", "damaged", "begun", "foreign"):
        (tmp_path / name).mkdir()
    content = own_run.folder.journal.read_bytes()
    lines = content.splitlines(keepends=True)
    (tmp_path / "damaged" / "study.journal").write_bytes(b"".join(lines[:3] + lines[4:]))
    (tmp_path / "begun" / "study.journal").write_bytes(b"")
    (tmp_path / "foreign" / "study.journal").write_bytes(b'{"some": "thing"}\n')
    os.mkfifo(tmp_path / "pipe")
    names = ("missing", "empty", "damaged", "begun", "foreign", "pipe")
    found = read(given, quick, *[tmp_path / name for name in names], own_run.folder.path)
    assert all(run.unread and not run.trials for run in found[:-1])
    assert found[-1].trials
    sentences = describe_warm_start(found)
    assert len(sentences) == len(names) + 1
    for name, sentence in zip(names, sentences):
        assert name in sentence
        assert "\n" not in sentence


def test_a_strangers_run_is_read_without_its_code(own_run, given, quick, tmp_path, monkeypatch):
    """Its search file names a module that would leave a trace, and a journal's trials are checked, not trusted."""
    sent = shutil.copytree(own_run.folder.path, tmp_path / "sent")
    (tmp_path / "beside.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\nload = build = print\n")
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((sent / "search.yaml").read_text())
    content["data"], content["space"] = {"name": "beside:load"}, {"builder": "beside:build", "parameters": {"a": [1]}}
    content["search"]["costs"] = ["flops", {"name": "beside:load"}]
    (sent / "search.yaml").write_text(yaml.safe_dump(content))
    (found,) = read(given, quick, sent)
    assert len(found.trials) == len(complete(own_run))
    assert not (tmp_path / "canary").exists()
    assert "beside" not in sys.modules
    (sent / "students" / "link").symlink_to("/etc/hostname")
    (found,) = read(given, quick, sent)
    assert found.unread is not None


def test_a_resumed_search_needs_no_earlier_run(own_run, given, quick, tmp_path):
    earlier = shutil.copytree(own_run.folder.path, tmp_path / "earlier")
    settings = {**quick, "warm_start": [str(earlier)]}
    whole = nd.search(**given, **settings, folder=tmp_path / "whole", quiet=True)
    lines = whole.folder.journal.read_bytes().splitlines(keepends=True)
    begun = next(place for place, line in enumerate(lines) if b'"warm_start"' in line) + 2
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "study.journal").write_bytes(b"".join(lines[:begun]))
    shutil.rmtree(earlier)
    resumed = nd.search(**given, **settings, folder=cut, resume=True, quiet=True)
    assert resumed.folder.path == cut
    assert [(r.architecture, r.taken) for r in resumed.records] == [(r.architecture, r.taken) for r in whole.records]
    assert resumed.metadata.warm_start == whole.metadata.warm_start


def test_folders_are_named_relative_to_the_search_file(tmp_path):
    assert SearchConfig(warm_start="first").warm_start == ("first",)
    assert SearchConfig(warm_start=[Path("first"), "second"]).warm_start == ("first", "second")


def test_a_run_that_has_recorded_nothing_gives_nothing(own_run, given, quick, tmp_path):
    folder = RunFolder(tmp_path / "new")
    with folder.lock():
        open_journal(folder, directions=("maximize", "minimize"), names=("quality", "flops"))
    (found,) = read(given, quick, folder.path)
    assert found.unread is not None
