"""Phases of a search: each resumes from the journal, and the last marks the run as finished."""

import pytest

import nas_distill as nd
from nas_distill.reports.final import models_of
from nas_distill.runs.metadata import Phase
from nas_distill.study import pipeline, start
from nas_distill.study.observer import Silent
from nas_distill.utils.errors import RunError

pytestmark = pytest.mark.usefixtures("one_thread")

PHASES = [
    "latency calibration",
    "survey of the space",
    "teacher validation",
    "teacher store",
    "step timing",
    "search",
    "full distillation",
    "export",
    "evaluation",
    "report",
]


class Listening(Silent):
    def __init__(self):
        self.phases, self.steps, self.trained, self.finalists, self.notes = [], [], [], [], []

    def phase(self, name):
        self.phases.append(name)

    def step(self, done, total, text=""):
        self.steps.append(self.phases[-1])

    def event(self, event, progress):
        if event.kind == "rung":
            self.trained.append(event.key)

    def finalist(self, finalist, progress):
        self.finalists.append(finalist.key)

    def note(self, text):
        self.notes.append(text)


def broken(*_, **__):
    raise RuntimeError("as if it had died here")


@pytest.mark.parametrize(
    "place",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("export_finalists", "evaluate_once")), "write_run_card"],
)
def test_finished_phases_are_not_repeated_after_a_kill(given, quick, tmp_path, monkeypatch, place):
    run, first = tmp_path / "run", Listening()
    settings = {**quick, "trials": 2, "latency": {"calibrate": 9, "repeats": 5}, "space": {**given["space"]}}
    settings["space"]["width"] = {"int": [4, 12]}
    with monkeypatch.context() as dying:
        dying.setattr(pipeline, place, broken)
        with pytest.raises(RuntimeError, match="as if it had died"):
            nd.search(**{**given, **settings}, folder=run, observer=first)
    assert first.phases == PHASES[: len(first.phases)]
    assert len(first.phases) >= len(PHASES) - 2
    assert first.notes == [f"Run: {run}"]
    left = nd.open_run(run)
    assert not left.finished
    assert left.status()["state"] == "stopped"
    if place != "write_run_card":
        with pytest.raises(RunError, match=r"no finished student yet.*--resume"):
            left.report()

    second = Listening()
    resumed = nd.search(**{**given, **settings}, folder=run, resume=True, observer=second)
    assert resumed.finished
    assert (resumed.folder.front_png.exists(), resumed.folder.card_md.exists()) == (True, True)
    assert second.trained == second.finalists == []
    assert "latency calibration" not in second.steps
    assert "teacher store" not in second.steps
    assert resumed.metadata.latency == left.metadata.latency is not None
    if place != "export_finalists":
        assert resumed.metadata.exports == left.metadata.exports is not None
    if place == "write_run_card":
        assert second.phases == ["survey of the space", "teacher store", "step timing", "report"]
        assert resumed.metadata.evaluation == left.metadata.evaluation is not None


def test_the_seconds_of_each_phase_are_added_up(own_run):
    timings = own_run.metadata.timings
    assert set(timings) == {*PHASES[1:], Phase.OTHER}  # no latency was wanted
    assert all(seconds >= 0 for seconds in timings.values())
    savings = own_run.report().savings
    assert savings.wall_seconds == pytest.approx(sum(timings.values())) == pytest.approx(sum(savings.phases.values()))
    assert list(savings.phases)[-1] == Phase.OTHER


@pytest.mark.usefixtures("no_export")
def test_the_seconds_of_a_run_are_those_of_the_call(given, quick, tmp_path, monkeypatch):
    """Time before, between and after the phases counts too."""
    watch = Watch()
    monkeypatch.setattr("time.perf_counter", watch)

    def slowly(function):
        def slow(*arguments, **keywords):
            watch.now += 7.0
            return function(*arguments, **keywords)

        return slow

    for module, name in ((start, "prepare"), (pipeline, "check_identity"), (pipeline, "evaluate_once")):
        monkeypatch.setattr(module, name, slowly(getattr(module, name)))
    run = nd.search(**given, folder=tmp_path / "run", **{**quick, "trials": 1, "seeds": 0})
    savings = run.report().savings
    assert savings.wall_seconds == pytest.approx(21.0, abs=0.01)
    assert (savings.phases["evaluation"], savings.phases["other"]) == pytest.approx((7.0, 14.0), abs=0.01)


class Watch:
    """A clock that advances a little with every call."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        self.now += 1e-6
        return self.now


def test_a_run_records_its_host_and_versions(own_run):
    metadata = own_run.metadata
    assert metadata.seed == 0
    assert {"torch", "optuna", "python", "numpy"} <= set(metadata.versions)
    assert metadata.host.name
    assert not metadata.base.startswith("/")


@pytest.mark.usefixtures("no_export")
def test_test_data_is_read_once_at_the_end(given, quick, tmp_path, monkeypatch):
    x, y = given["data"].train.x, given["data"].train.y
    data = nd.Dataset.from_tensors(x, y, val=0.2, test=0.2)
    looked = []
    batch = nd.Dataset.batch

    def watched(self, split, *arguments, **keywords):
        if split == "test":
            looked.append(listening.phases[-1])
        return batch(self, split, *arguments, **keywords)

    monkeypatch.setattr(nd.Dataset, "batch", watched)
    listening = Listening()
    run = nd.search(
        **{**given, "data": data}, folder=tmp_path / "run", observer=listening, **{**quick, "trials": 1, "seeds": 0}
    )
    assert set(looked) == {"evaluation"}
    assert run.report().split == "test"
    report = run.report()
    assert len(looked) == len(models_of(report))  # teacher, student, baseline, and the uniform network


def test_without_test_data_the_report_says_so(own_run):
    report = own_run.report()
    assert report.split == "val"
    assert any("no test data" in note for note in report.notes)
