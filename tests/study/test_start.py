"""Searches from Python."""

import shutil
import threading

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import nas_distill as nd
from nas_distill.config import OptimizerConfig
from nas_distill.reports.final import student_name
from nas_distill.study.observer import Silent
from nas_distill.study.start import dry_run, prepare
from nas_distill.utils.errors import BudgetError, ConfigError, DataError, RunError, SpaceError, TeacherError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_search_from_python_ends_with_a_student(own_run, given):
    assert own_run.finished
    front = own_run.front()
    assert isinstance(front, pd.DataFrame)
    assert len(front) >= 1
    assert list(front["flops"]) == sorted(front["flops"])
    best = own_run.best()
    assert best.record.number in {entry.trial for entry in own_run.finalists()}
    assert set(best.architecture) == {"width", "depth"}
    assert isinstance(best.student().module, nn.Module)
    assert given["teacher"].training is False
    assert not any(weight.requires_grad for weight in given["teacher"].parameters())


def test_the_budget_is_met_and_percentages_refer_to_the_teacher(own_run):
    limit = own_run.budget.limits["flops"].high
    teacher = own_run.metadata.teacher.costs
    assert limit == pytest.approx(0.5 * teacher["flops"])
    trained = [record for record in own_run.records if record.trained]
    assert len(trained) == 3
    assert all(record.costs["flops"] <= limit and record.costs["params"] <= 60_000 for record in trained)


def test_objects_from_python_are_named_in_the_search_file(own_run):
    content = yaml.safe_load(own_run.folder.search_yaml.read_text())
    assert content["data"]["name"] == "<python> tensors"
    assert content["teacher"]["name"] == "<python> Sequential"
    assert content["space"]["builder"].endswith(":build")
    assert content["space"]["parameters"]["width"] == [4, 8, 12]


def test_quiet_prints_nothing(given, quick, tmp_path, capfd):
    nd.search(**given, folder=tmp_path / "run", **{**quick, "trials": 1, "seeds": 0}, quiet=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_export")
def test_threads_and_random_state_are_unchanged(given, quick, tmp_path):
    torch.set_num_threads(2)
    torch.manual_seed(5)
    np.random.seed(5)
    state, other = torch.get_rng_state(), np.random.get_state()
    nd.search(**given, folder=tmp_path / "run", **{**quick, "trials": 1, "seeds": 0})
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(one, two) for one, two in zip(np.random.get_state(), other))


@pytest.mark.usefixtures("no_export")
def test_a_search_works_in_a_separate_thread(given, quick, tmp_path):
    found = []
    settings = {**quick, "trials": 1, "seeds": 0}
    thread = threading.Thread(target=lambda: found.append(nd.search(**given, folder=tmp_path / "run", **settings)))
    thread.start()
    thread.join()
    assert found[0].finished


@pytest.mark.usefixtures("no_export")
def test_the_next_search_gets_a_new_folder(own_run, given, quick, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(own_run.folder.path, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    second = nd.search(**given, folder=run, **{**quick, "trials": 1, "seeds": 0})
    assert second.folder.path == tmp_path / "run-2"
    third = nd.search(**given, folder=run, resume=True, **{**quick, "trials": 1, "seeds": 0})
    assert third.folder.path == tmp_path / "run-3"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_export")
def test_the_same_search_is_reproducible(own_run, given, quick, tmp_path):
    again = nd.search(**given, folder=tmp_path / "run", **quick)
    scores = [(record.architecture, record.state, record.rungs) for record in own_run.records]
    assert [(record.architecture, record.state, record.rungs) for record in again.records] == scores
    other = nd.search(**given, folder=tmp_path / "other", seed=1, **quick)
    assert [(record.architecture, record.state, record.rungs) for record in other.records] != scores


class LeaveError(Exception):
    """End the search as if its process had died."""


def leaving(kind, count):
    class Leaving(Silent):
        seen = 0

        def event(self, event, progress):
            if event.kind == kind:
                self.seen += 1
                if self.seen == count:
                    raise LeaveError

    return Leaving()


@pytest.mark.usefixtures("no_export")
def test_an_unfinished_search_is_resumed_from_python(own_run, given, quick, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(LeaveError):
        nd.search(**given, folder=run, observer=leaving("complete", 1), **quick)
    left = nd.open_run(run)
    assert not left.finished
    assert sum(record.state == "complete" for record in left.records) == 1
    resumed = nd.search(**given, folder=run, resume=True, **quick)
    assert resumed.folder.path == run
    assert resumed.finished
    assert [record.architecture for record in resumed.records] == [record.architecture for record in own_run.records]
    assert resumed.front()["quality"].tolist() == own_run.front()["quality"].tolist()


@pytest.mark.usefixtures("no_export")
def test_a_resumed_search_may_have_more_trials(given, quick, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(LeaveError):
        nd.search(**given, folder=run, observer=leaving("complete", 1), **{**quick, "trials": 1})
    resumed = nd.search(**given, folder=run, resume=True, **{**quick, "trials": 2})
    assert sum(record.trained for record in resumed.records) == 2
    assert nd.open_run(run).config.search.trials == 2


@pytest.mark.usefixtures("no_export")
def test_sections_of_a_file_are_replaced_from_python(given, tmp_path):
    file = tmp_path / "mine.yaml"
    content = {
        "data": "digits",
        "teacher": {"name": "fashion-resnet", "signal": "live"},
        "space": "resnet",
        "search": {"trials": 9, "backend": "inline"},
        "score": {"epochs": 7, "batch_size": 32},
        "latency": {"calibrate": 0, "repeats": 5},
        "final": {"epochs": 1, "count": 1, "baseline": False},
    }
    file.write_text(yaml.safe_dump(content))
    run = nd.search(file, **given, trials=1, score={"epochs": 1})
    assert run.folder.path == tmp_path / "mine"
    assert (run.config.search.trials, run.config.score.training.epochs, run.config.score.training.batch_size) == (
        1,
        1,
        32,
    )
    assert run.config.teacher.signal == "live"
    assert not list(tmp_path.glob("**/*.npy")), "a live teacher keeps no store"


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [("a.yaml", None, "a"), ("a.b.yaml", None, "a.b"), ("plain", None, "plain-run"), ("a.yaml", "other", "other")],
)
def test_a_run_is_next_to_its_file_and_named_after_it(search_file, tmp_path, file, name, expected):
    path = search_file(file, **({} if name is None else {"name": name}))
    assert prepare(path, settings={})[1] == tmp_path / expected


@pytest.mark.parametrize("name", ["a/b", "..", "/a", ""])
def test_an_invalid_folder_name_is_refused(search_file, name):
    with pytest.raises(ConfigError, match=r"'name' is '.*', which is not a valid name"):
        prepare(search_file(name=name), settings={})


def test_teacher_data_and_space_may_be_names(teacher_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem, base = prepare(None, teacher=str(teacher_folder), data="digits", space="resnet", settings={})
    assert (problem.data.name, problem.space.name) == ("digits", "resnet")
    assert problem.teacher.num_classes == 10
    assert str(base) == "runs/search"


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"trails": 3}, ConfigError, "unknown setting 'trails'; did you mean 'trials'?"),
        ({"score": {"epoch": 3}}, ConfigError, "unknown key 'score.epoch'; did you mean 'epochs'?"),
        ({"score": 3}, ConfigError, "'score' must be a mapping"),
        ({"trials": "many"}, ConfigError, "'search.trials' must be a whole number"),
        ({"teacher": None}, ConfigError, "'teacher' is missing"),
        ({"data": None}, ConfigError, "'data' is missing"),
        ({"space": None}, ConfigError, "'space' is missing"),
        ({"teacher": 3}, TeacherError, "must be a torch.nn.Module"),
        ({"data": 3}, DataError, "it must be a Dataset"),
        ({"budget": 3}, ConfigError, "'budget' must be"),
        ({"budget": {"flop": 3}}, BudgetError, "did you mean 'flops'?"),
        ({"budget": {"flops": 3}}, BudgetError, "none of"),
        ({"space": {"width": [4, 8], "depth": {"itn": [1, 2]}}}, SpaceError, "depth"),
        ({"builder": None}, SpaceError, "builder"),
        ({"builder": "math:nothing"}, ConfigError, "has no 'nothing'"),
        ({"space": "resnet"}, ConfigError, "a named space has its own"),
        ({"seed": "x"}, ConfigError, "'seed' must be a whole number"),
    ],
    ids=str,
)
def test_invalid_input_is_one_sentence_and_leaves_no_run(given, quick, tmp_path, changes, error, expected):
    with pytest.raises(error) as raised:
        nd.search(folder=tmp_path / "run", **{**given, **quick, **changes})
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(given, quick, tmp_path):
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(TeacherError, match="has 5 classes"):
        nd.search(**{**given, "teacher": teacher}, folder=tmp_path / "run", **quick)


def test_a_folder_with_other_files_is_refused(given, quick, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"contains 'notes\.txt'"):
        nd.search(**given, folder=tmp_path, **quick)


def test_a_dry_run_reports_and_writes_nothing(search_file, tmp_path):
    told = []

    class Watching(Silent):
        def survey(self, survey, estimate, costing, problem):
            told.append((survey, estimate, costing, problem))

    file = search_file()
    dry_run(file, settings={"trials": 5}, budget=None, observer=Watching())
    ((survey, estimate, costing, problem),) = told
    assert problem.config.search.trials == 5
    assert survey.cheapest.costs["flops"] <= survey.median.costs["flops"] <= survey.largest.costs["flops"]
    assert estimate.wall > 0
    assert costing.latency is None
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_budget_replaces_the_files_limits_by_cost(search_file):
    file = search_file(budget={"flops": "60%", "params": "60k", "weight_bytes": "1MiB"})
    problem, _ = prepare(file, budget={"params": 10_000, "weight_bytes": None}, settings={})
    assert problem.config.budget == {"flops": "60%", "params": 10_000}


def test_mean_std_and_own_views_of_a_search_file(search_file, tmp_path):
    (tmp_path / "users_own_views.py").write_text("def change(sample, generator):\n    return 255 - sample\n")
    views = {"count": 2, "pad": [1, 0], "function": "users_own_views:change"}
    file = search_file(data={"name": "digits", "mean": 0.5, "std": [0.25], "views": views})
    plain, _ = prepare(search_file("plain.yaml"), settings={})
    problem, _ = prepare(file, settings={})
    given, standard = problem.data, plain.data
    assert given.normalisation()["mean"] == [0.5]
    assert given.fingerprint != standard.fingerprint
    index = torch.arange(4)
    raw = torch.as_tensor(given.train.x[:4]).float() / (255 if given.train.x.dtype == "uint8" else 1)
    torch.testing.assert_close(given.batch("train", index)[0], (raw - 0.5) / 0.25)
    assert given.views.recipe()["function"] == "users_own_views:change"
    assert not torch.equal(given.batch("train", index, 0)[0], given.batch("train", index)[0])


@pytest.mark.usefixtures("no_export")
def test_progress_and_result_are_shown_unless_quiet(given, quick, tmp_path, capsys):
    settings = {**given, **quick, "trials": 1, "seeds": 0}
    run = nd.search(**settings, folder=tmp_path / "shown")
    shown = capsys.readouterr()
    assert shown.err == ""
    for part in (
        f"Run: {run.folder.path}",
        "cheapest",
        "[1/1] trial ",
        " on labels only: ",
        f"Student: {student_name(run.report())}",
        "Total time ",
    ):
        assert part in shown.out
    assert "latency calibration" not in shown.out  # there was none to do
    nd.search(**settings, folder=tmp_path / "quiet", quiet=True)
    assert capsys.readouterr() == ("", "")
    student = run.best().distill(epochs=1)
    assert f"[1/1] validation {student.provenance.quality:.2%}" in capsys.readouterr().out
    run.best().distill(epochs=1, seed=3, quiet=True)
    assert capsys.readouterr() == ("", "")


class Attending(nn.Module):
    """A small transformer over the rows of images (1, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        rows = x[:, 0]
        return self.out(self.attention(rows, rows, rows)[0].mean(1))


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (None, ("adamw", "adamw")),
        ({"clip": 1.0}, ("adamw", "adamw")),
        ({"name": "sgd"}, ("sgd", "adamw")),
        ({"lr": 0.3}, ("sgd", "adamw")),
        ({"name": "adamw", "lr": 0.3}, ("adamw", "adamw")),
    ],
)
def test_the_default_optimiser_depends_on_the_teacher(search_file, optimizer, names):
    file = search_file(**({} if optimizer is None else {"score": {"optimizer": optimizer}}))
    plain, _ = prepare(file, settings={})
    problem, _ = prepare(file, teacher=Attending(), settings={})
    assert not any("adamw" in note for note in plain.notes)
    assert (problem.config.score.training.optimizer.name, problem.config.final.training.optimizer.name) == names
    assert any("adamw" in note for note in problem.notes)
    if optimizer is None or "lr" not in optimizer:
        assert problem.config.score.training.optimizer.lr == OptimizerConfig(name=names[0]).lr
    else:
        assert problem.config.score.training.optimizer.lr == 0.3
    if optimizer and "clip" in optimizer:
        assert problem.config.score.training.optimizer.clip == 1.0
