"""Searches compared with the network that needs no search, from the first candidates to the report."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import nas_distill as nd
from nas_distill.costs.budget import Budget
from nas_distill.costs.counting import count
from nas_distill.engine.candidates import Pricing
from nas_distill.reports.final import result_lines, student_name
from nas_distill.runs.metadata import (
    UNIFORM,
    EvaluationRecord,
    Finalist,
    GainRecord,
    RunMetadata,
    TeacherRecord,
    UniformRecord,
)
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.study import finish, pipeline
from nas_distill.study.finish import screened_uniform
from nas_distill.study.observer import Silent
from nas_distill.study.reporting import uniform_gain, uniform_note
from nas_distill.tasks.classification import ClassificationEvaluation
from nas_distill.utils.errors import BuildError
from tests.study.conftest import build, tensors
from tests.study.test_cutting import Network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tested(given: dict[str, Any]) -> dict[str, Any]:
    """A search with test data."""
    return {**given, "data": nd.Dataset.from_tensors(*tensors(), val=0.2, test=0.2)}


class Listening(Silent):
    def __init__(self) -> None:
        self.finalists: list[str] = []

    def finalist(self, finalist: Finalist, progress: Any) -> None:
        self.finalists.append(finalist.key)


def test_a_search_distils_the_uniform_network_and_states_the_gain(
    tested: dict[str, Any], quick: dict[str, Any], tmp_path: Any
) -> None:
    settings = {**quick, "final": {**quick["final"], "epochs": 2, "count": 2}}
    run = nd.search(**tested, folder=tmp_path / "run", **settings)
    known = run.metadata.uniform
    assert known is not None
    assert known.name == "uniform scaling"
    assert known.architecture is not None
    assert run.budget.fits(known.costs)
    trial = run.uniform()
    assert trial is not None
    assert trial.architecture == known.architecture
    assert trial.student().provenance.recipe == run.student().provenance.recipe  # the same settings and seed
    trained = {entry.steps for entry in run.metadata.finalists.values() if entry.taught}
    assert len(trained) == 1  # the same number of samples

    report = run.report()
    assert report.gain is not None
    (line,) = [line for line in result_lines(report) if line.startswith("The search ")]
    assert f"- {line}" in run.folder.card_md.read_text(encoding="utf-8")
    if report.gain.student_is_uniform:
        assert run.best().architecture == known.architecture
    else:
        assert report.uniform is not None
        assert report.uniform.latency_p50_ms is not None
        ours, theirs = run.student().evaluate(), trial.student().evaluate()
        assert report.gain.difference == pytest.approx(ours.quality - theirs.quality)
        assert report.gain.samples == len(tested["data"].test)
        assert report.gain.low is not None
        assert report.gain.high is not None
        assert report.gain.low <= report.gain.difference <= report.gain.high
    again = nd.open_run(run.folder.path).report()
    assert (again.gain, again.uniform) == (report.gain, report.uniform)


def hopeless_unless_wide(width: int, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Networks whose narrow ones see only the mean of an image, which says little about its class."""
    if width > 4:
        return build(width, 1, input_shape, num_classes)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, num_classes))


@pytest.mark.usefixtures("no_export")
def test_a_uniform_network_that_was_no_candidate_is_a_finalist_and_may_be_the_student(
    tested: dict[str, Any], quick: dict[str, Any], tmp_path: Any
) -> None:
    # The only trial is hopeless, and the uniform network is not.
    settings = {**quick, "trials": 1, "seeds": 1, "final": {**quick["final"], "epochs": 3}}
    space, builder = {"width": [4, 12]}, hopeless_unless_wide
    run = nd.search(**{**tested, "space": space, "builder": builder}, folder=tmp_path / "run", **settings)
    (record,) = [record for record in run.records if record.state == "complete"]
    assert record.architecture.to_dict()["width"] == 4
    entry = run.metadata.finalists[UNIFORM]
    assert (entry.trial, entry.score) == (None, None)
    assert entry.architecture["width"] == 12
    assert run.student().key == UNIFORM
    report = run.report()
    assert report.trial is None
    assert student_name(report) == "uniform scaling"
    assert report.gain is not None
    assert report.gain.student_is_uniform
    # What takes the best trial works with it.
    best = run.best()
    assert repr(best).startswith("Trial(uniform network: ")
    assert best.student().key == UNIFORM
    assert best.to_dict()["trial"] is None
    assert "Uniform network" in best._repr_html_()
    assert run.best({"flops": record.costs["flops"]}).record.number == record.number
    longer = best.distill(epochs=1, quiet=True)
    assert longer.provenance.trial == UNIFORM
    assert {student.key for student in best.students()} == {UNIFORM, longer.key}
    assert run.front().empty  # the trial is not better than a constant answer
    assert run.plot() is not None
    assert run.status()["state"] == "finished"


@pytest.mark.usefixtures("no_export")
def test_a_killed_search_resumes_with_the_same_uniform_network(
    tested: dict[str, Any], quick: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("as if it had died here")

    arguments = {**tested, **quick, "folder": tmp_path / "run"}
    with monkeypatch.context() as dying:
        dying.setattr(pipeline, "evaluate_once", broken)
        with pytest.raises(RuntimeError, match="as if it had died"):
            nd.search(**arguments)
    left = nd.open_run(tmp_path / "run").metadata
    listening = Listening()
    run = nd.search(**arguments, resume=True, observer=listening)
    assert listening.finalists == []
    assert run.metadata.uniform == left.uniform is not None
    assert run.report().gain is not None


@pytest.mark.usefixtures("no_export")
def test_it_can_be_switched_off(tested: dict[str, Any], quick: dict[str, Any], tmp_path: Any) -> None:
    settings = {**quick, "trials": 1, "seeds": 1, "final": {**quick["final"], "uniform": False}}
    run = nd.search(**tested, folder=tmp_path / "run", **settings)
    assert {entry.key for entry in run.metadata.finalists.values()} == {"t00000", "t00000-labels"}
    assert run.uniform() is None
    assert (run.report().uniform, run.report().gain) == (None, None)


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("said", ["no limits", "within the budget"])
def test_the_report_says_why_there_is_no_uniform_network(
    tested: dict[str, Any], quick: dict[str, Any], tmp_path: Any, said: str
) -> None:
    budget: dict[str, Any] = {}
    space = {"width": [4, 8], "depth": [1, 2]}
    if said == "within the budget":
        # Only width 4 at depth 2 is between the limits. Uniform scaling raises the width first, to less than that.
        module = tested["builder"](width=4, depth=2, input_shape=(1, 8, 8), num_classes=4)
        wanted = count(module, (1, 8, 8))["flops"]
        budget = {"flops": {"min": wanted - 1, "max": wanted + 1}}
    settings = {**quick, "trials": 1, "seeds": 1}
    run = nd.search(**{**tested, "space": space, "budget": budget}, folder=tmp_path / "run", **settings)
    report = run.report()
    assert run.metadata.uniform is not None
    assert run.metadata.uniform.architecture is None
    assert any(said in note for note in report.notes)
    assert report.gain is None


@pytest.mark.usefixtures("no_export")
def test_a_search_of_cuts_is_compared_with_uniform_narrowing(quick: dict[str, Any], tmp_path: Any) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        teacher = Network().eval()
    data = nd.Dataset.from_tensors(*tensors(), val=0.2, test=0.2)
    run = nd.search(
        teacher=teacher,
        data=data,
        space={"from_teacher": {"multiple": 2, "samples": 64}},
        budget={"flops": "40%"},
        folder=tmp_path / "run",
        **quick,
    )
    known = run.metadata.uniform
    assert known is not None
    assert known.name == "uniform narrowing"
    cuts = run.problem.cuts
    assert cuts is not None
    cut = cuts.decode(Architecture(known.architecture or {}))
    assert set(cut.blocks) == {"whole"}
    report = run.report()
    assert report.gain is not None
    assert report.gain.over == "uniform narrowing"


# Latency.


def timed_problem(count: int = 8) -> SimpleNamespace:
    space = SearchSpace.from_dict({"width": list(range(1, count + 1))}, builder="builtins:dict")
    return SimpleNamespace(space=space, cuts=None, candidates=lambda: nullcontext(None))


def predicted(architecture: Architecture) -> dict[str, float]:
    width = float(architecture.to_dict()["width"])
    return {"flops": width, "latency_ms": width}


class Kept:
    """The metadata of a journal, without the journal."""

    def __init__(self, **fields: Any) -> None:
        self.metadata = RunMetadata(**fields)

    def note(self, **changes: Any) -> None:
        self.metadata = self.metadata.changed(**changes)


def screened(monkeypatch: pytest.MonkeyPatch, slower: float, journal: Any, limit: float = 6.0) -> Any:
    timed: list[int] = []

    def measure(_: Any, record: Any, __: Any) -> float:
        width = int(record.architecture.to_dict()["width"])
        timed.append(width)
        if not slower:
            raise BuildError("its process died")
        return slower * width

    monkeypatch.setattr(finish, "_measure", measure)
    price = Pricing(predicted, Budget.parse({"latency_ms": limit}))
    problem: Any = timed_problem()
    return screened_uniform(problem, journal, price, []), timed


def noted(width: int = 6) -> Any:
    architecture = Architecture({"width": width})
    return Kept(
        uniform=UniformRecord(
            name="uniform scaling", architecture=architecture.to_dict(), costs=predicted(architecture)
        )
    )


def test_a_uniform_network_over_the_measured_limit_is_replaced_by_a_smaller_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = noted()
    found, timed = screened(monkeypatch, 1.5, journal)
    assert found.architecture == {"width": 4}
    assert journal.metadata.uniform == found
    assert timed == [6, 4]
    again, timed = screened(monkeypatch, 1.5, journal)  # a resumed search
    assert (again, timed) == (found, [])


def test_a_uniform_network_within_the_measured_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    found, timed = screened(monkeypatch, 0.9, noted())
    assert (found.architecture, timed) == ({"width": 6}, [6])


@pytest.mark.parametrize("slower", [0.0, 100.0], ids=["not timed", "none within the limit"])
def test_without_one_within_the_measured_limit_there_is_none(monkeypatch: pytest.MonkeyPatch, slower: float) -> None:
    journal = noted()
    found, _ = screened(monkeypatch, slower, journal)
    assert found.architecture is None
    assert journal.metadata.uniform == found


def test_without_a_limit_of_latency_nothing_is_timed() -> None:
    journal = noted()
    problem: Any = timed_problem()
    price = Pricing(predicted, Budget.parse({"flops": 6}))
    assert screened_uniform(problem, journal, price, []) == journal.metadata.uniform


# Reports.


def entry(key: str, width: int, quality: float | None = 0.9, **more: Any) -> Finalist:
    costs = {"flops": float(width)}
    values = {"trial": None, "taught": True, "score": None, "costs": costs, **more}
    return Finalist(key=key, architecture={"width": width}, quality=quality, **values)


def metadata_of(uniform: Finalist | None, gain: GainRecord | None) -> RunMetadata:
    tested = vars(ClassificationEvaluation(0.8, 0.2, 0.01, None, None, 500))
    winner = entry("t00001", 2)
    entries = [winner, *([] if uniform is None else [uniform])]
    return RunMetadata(
        uniform=UniformRecord(name="uniform narrowing", architecture={"width": 4}, costs={"flops": 4.0}),
        finalists={one.key: one for one in entries},
        budget={"flops": {"high": 5.0}},
        teacher=TeacherRecord(name="t", costs={}, validation=0.9),
        evaluation=EvaluationRecord(
            split="test",
            student=winner.key,
            teacher=tested,
            students={one.key: tested for one in entries},
            validation_samples=100,
            gain=gain,
        ),
    )


GAIN = GainRecord(difference=0.01, low=0.001, high=0.02, samples=500)


def test_the_gain_has_the_students_share_of_costs() -> None:
    metadata = metadata_of(entry(UNIFORM, 4), GAIN)
    assert metadata.evaluation is not None
    model, gain = uniform_gain(metadata.finalists["t00001"], metadata, metadata.evaluation)
    assert model is not None
    assert gain is not None
    assert (model.name, model.validation, gain.costs, gain.samples) == ("uniform narrowing", 0.9, {"flops": 0.5}, 500)
    assert (gain.verdict, gain.student_is_uniform, gain.speed) == ("gain", False, None)


@pytest.mark.parametrize(
    ("uniform", "gain", "notes"),
    [
        (None, None, 0),  # switched off
        (entry(UNIFORM, 4), None, 0),  # trained after the evaluation
        (entry(UNIFORM, 4, None, cause="its loss became NaN."), None, 1),
    ],
)
def test_without_a_trained_uniform_network_there_is_no_gain(
    uniform: Finalist | None, gain: GainRecord | None, notes: int
) -> None:
    metadata = metadata_of(uniform, gain)
    assert metadata.evaluation is not None
    assert uniform_gain(metadata.finalists["t00001"], metadata, metadata.evaluation) == (None, None)
    assert len(uniform_note(metadata)) == notes
