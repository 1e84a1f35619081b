from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from nas_distill.costs.budget import Budget
from nas_distill.runs.metadata import RunMetadata
from nas_distill.runs.records import Rung, TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.study import finish
from nas_distill.study.finish import screened_finalists
from nas_distill.utils.errors import BuildError


class Kept:
    """The metadata of a journal, without the journal."""

    def __init__(self, **fields):
        self.metadata = RunMetadata(**fields)

    def note(self, **changes):
        self.metadata = self.metadata.changed(**changes)


def record(number: int, quality: float, flops: float) -> TrialRecord:
    return TrialRecord(
        number=number,
        index=number,
        key=f"t{number:05d}",
        state="complete",
        architecture=Architecture({"n": number}),
        origin="sampler",
        costs={"flops": flops, "latency_ms": flops / 100},
        reports={0: Rung(quality, 1, 1.0, 1.0)},
    )


@pytest.fixture
def problem():
    config = SimpleNamespace(search=SimpleNamespace(objectives=("flops",)), final=SimpleNamespace(count=2, slope=0.0))
    return SimpleNamespace(config=config, candidates=lambda: nullcontext(None))


RECORDS = [record(0, 0.80, 10), record(1, 0.85, 50), record(2, 0.90, 100)]


def test_a_finalist_over_the_measured_limit_is_replaced(problem, monkeypatch):
    times = {"t00000": 0.1, "t00001": 0.5, "t00002": 1.2}
    monkeypatch.setattr(finish, "_measure", lambda _, entry, __: times[entry.key])
    journal = Kept()
    chosen = screened_finalists(problem, journal, Budget.parse({"latency_ms": 1.0}), RECORDS)
    assert [entry.number for entry in chosen] == [1, 0]
    assert journal.metadata.measured_latency_ms == times


def test_measured_candidates_are_not_measured_again(problem, monkeypatch):
    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(finish, "_measure", refuse)
    journal = Kept(measured_latency_ms={"t00000": 0.1, "t00001": 0.5, "t00002": 0.9})
    chosen = screened_finalists(problem, journal, Budget.parse({"latency_ms": 1.0}), RECORDS)
    assert [entry.number for entry in chosen] == [2, 1]


def test_without_a_candidate_within_the_limit_the_choice_stays(problem, monkeypatch):
    monkeypatch.setattr(finish, "_measure", lambda *_: 9.0)
    chosen = screened_finalists(problem, Kept(), Budget.parse({"latency_ms": 1.0}), RECORDS)
    assert [entry.number for entry in chosen] == [2, 1]


def test_a_finalist_that_cannot_be_timed_is_replaced(problem, monkeypatch):
    def measure(_, entry, __):
        if entry.number == 2:
            raise BuildError("its process died")
        return 0.5

    monkeypatch.setattr(finish, "_measure", measure)
    chosen = screened_finalists(problem, Kept(), Budget.parse({"latency_ms": 1.0}), RECORDS)
    assert [entry.number for entry in chosen] == [1, 0]


def test_nothing_is_measured_without_a_latency_limit(problem):
    journal = Kept()
    chosen = screened_finalists(problem, journal, Budget.parse({"flops": 200}), RECORDS)
    assert [entry.number for entry in chosen] == [2, 1]
    assert journal.metadata.measured_latency_ms == {}
