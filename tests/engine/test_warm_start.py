"""Trials of earlier runs in a search: recorded once, never trained, and the same after a kill at any line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from nas_distill.config import SearchConfig
from nas_distill.engine.proposals import Proposals
from nas_distill.engine.warm_start import EARLIER, best_first
from nas_distill.runs.journal import open_journal, read_study
from nas_distill.runs.metadata import EarlierRun, Reading, TakenTrial
from nas_distill.runs.records import Taken
from nas_distill.spaces import SearchSpace
from nas_distill.utils.errors import RunError
from nas_distill.utils.seeds import numpy_rng


def noted(bench: Any, count: int, *, candidates: int = 0) -> tuple[EarlierRun, ...]:
    """Note trials of a made-up earlier run in the journal of a bench, and return what was noted."""
    rng = numpy_rng(0, "earlier")
    drawn = {found.hash: found for found in (bench.space.sample(rng) for _ in range(20 * (count + candidates + 1)))}
    drawn.pop(bench.space.smallest().hash, None)
    architectures = list(drawn.values())
    trials = tuple(
        TakenTrial(
            trial=10 + place,
            architecture=architecture.to_dict(),
            costs=bench.costs(architecture),
            readings=tuple(
                Reading(quality=bench.evaluator.quality(architecture, share), step=1, seconds=5.0, share=share)
                for share in bench.score.rungs
            ),
        )
        for place, architecture in enumerate(architectures[:count])
    )
    again = tuple(architecture.to_dict() for architecture in architectures[count : count + candidates])
    earlier = (EarlierRun(run="first", trials=trials), EarlierRun(run="second", candidates=again, differs=("score",)))
    with bench.folder.lock():
        journal = open_journal(bench.folder, directions=("maximize", "minimize"), names=("quality", "flops"))
        journal.note(warm_start=earlier)
    return earlier


def test_taken_trials_are_recorded_first_and_not_trained(bench: Any) -> None:
    first, _ = noted(bench, 5)
    progress = bench.run().conclude()
    records = bench.records()
    taken, others = records[:5], records[5:]
    assert [record.taken for record in taken] == [Taken("first", trial.trial) for trial in first.trials]
    assert not [record for record in others if record.taken is not None]
    for record, trial in zip(taken, first.trials):
        assert (record.state, record.origin) == ("complete", EARLIER)
        assert not record.trained
        assert record.seconds == 0
        assert record.costs == trial.costs
        assert record.final_quality == trial.readings[-1].quality
        assert record.key not in bench.evaluator.started
    assert sum(record.trained for record in records) == bench.search.trials == progress.done
    assert progress.seconds_trained == pytest.approx(sum(record.seconds for record in others))
    assert others[0].architecture == bench.space.smallest()


def test_an_architecture_that_was_taken_is_a_duplicate(bench: Any) -> None:
    """Also one of the first candidates."""
    first, _ = noted(bench, 1)
    smallest = bench.space.smallest()
    whole = first.trials[0].model_copy(update={"architecture": smallest.to_dict(), "costs": bench.costs(smallest)})
    with bench.folder.lock():
        journal = open_journal(bench.folder, directions=("maximize", "minimize"), names=("quality", "flops"))
        journal.note(warm_start=(first.model_copy(update={"trials": (whole,)}),))
    bench.run()
    records = bench.records()
    repeats = [record for record in records if record.architecture == smallest]
    assert [record.state for record in repeats[:2]] == ["complete", "duplicate"]
    assert repeats[1].duplicate_of == 0
    assert not [record for record in repeats if record.trained]


def test_the_sampler_is_told_of_them(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, TrialState]] = []
    original = Proposals.tell

    def tell(self: Proposals, index: int, state: TrialState, *arguments: Any, **keywords: Any) -> None:
        told.append((index, state))
        original(self, index, state, *arguments, **keywords)

    monkeypatch.setattr(Proposals, "tell", tell)
    noted(bench, 3)
    with bench.controller():
        assert told == [(index, TrialState.COMPLETE) for index in range(3)]
    assert [trial.state for trial in read_study(bench.folder).trials] == [TrialState.COMPLETE] * 3


def test_they_stop_candidates_that_they_dominate(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(options={"margin": 0.0}, search=SearchConfig(trials=12, seeds=3, sampler="random"))
    noted(bench, 12)
    bench.run()
    records = bench.records()
    stops = {record.dominated_by for record in records if record.state == "pruned"}
    assert stops & {record.number for record in records if record.taken is not None}


def test_architectures_of_a_run_whose_scores_do_not_compare_come_after_the_first_candidates(bench: Any) -> None:
    _, second = noted(bench, 0, candidates=2)
    bench.run()
    first = [record for record in bench.records() if record.origin == "first_candidate"]
    assert len(first) == bench.search.seeds + 2
    assert [record.architecture.to_dict() for record in first[-2:]] == list(second.candidates)
    assert all(record.trained for record in first)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_search_that_was_killed_at_any_line_goes_on_the_same(make_bench: Callable[..., Any], sampler: str) -> None:
    """It needs nothing but its own journal, also where it died while trials were being taken over."""
    search = SearchConfig(trials=6, seeds=2, sampler=sampler)
    bench = make_bench(search=search)
    noted(bench, 4, candidates=1)
    bench.run()
    whole = [(record.architecture, record.origin, record.taken) for record in bench.records()]
    lines = bench.folder.journal.read_bytes().splitlines(keepends=True)
    begun = next(place for place, line in enumerate(lines) if b"warm_start" in line) + 1
    for kept in (begun, begun + 1, begun + 3, begun + 6):
        again = make_bench(search=search)
        again.folder.create()
        again.folder.journal.write_bytes(b"".join(lines[:kept]))
        again.run()
        attempts = {record.index: record for record in again.records()}
        assert [(record.architecture, record.origin, record.taken) for record in attempts.values()] == whole


def test_a_machine_on_which_all_fail_is_found_out_in_spite_of_them(bench: Any) -> None:
    bench.search = SearchConfig(trials=60, seeds=3)
    noted(bench, 3)
    bench.evaluator.quality = lambda architecture, share: float("nan")
    with pytest.raises(RunError, match="candidates failed"):
        bench.run()


def test_a_space_that_was_taken_whole_leaves_nothing_to_train(make_bench: Callable[..., Any]) -> None:
    space = SearchSpace.from_dict({"width": [1, 2], "depth": [1]}, builder="builtins:dict")
    bench = make_bench(space=space, costs=lambda architecture: {"flops": float(architecture.values["width"])})
    bench.evaluator.quality = lambda architecture, share: share / 2
    trials = [
        TakenTrial(
            trial=0,
            architecture=architecture.to_dict(),
            costs=bench.costs(architecture),
            readings=tuple(Reading(quality=0.5, step=1, seconds=1.0, share=share) for share in bench.score.rungs),
        )
        for architecture in space.every()
    ]
    with bench.folder.lock():
        journal = open_journal(bench.folder, directions=("maximize", "minimize"), names=("quality", "flops"))
        journal.note(warm_start=(EarlierRun(run="first", trials=tuple(trials)),))
    progress = bench.run().conclude()
    assert progress.done == 0
    assert "all 2 architectures" in (progress.end_reason or "")
    assert bench.evaluator.started == []


def test_the_best_come_first_front_by_front() -> None:
    points = [(0.5, 10.0), (0.9, 30.0), (0.8, 40.0), (0.5, 11.0), (0.7, 20.0), (0.6, 40.0)]
    assert best_first(points) == [1, 4, 0, 2, 3, 5]
    assert best_first([]) == []
    assert sorted(best_first([(float("nan"), 1.0), (0.5, 2.0)])) == [0, 1]
