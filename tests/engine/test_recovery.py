"""Deaths of the driver, simulated at every kind of moment of its journal."""

import errno
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nas_distill.config import SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.runs.journal import read_study
from nas_distill.utils.errors import RunError

MOMENTS = ("before", "within", "after")


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def death(bench: Any, append: int, moment: str) -> Iterator[list[int]]:
    """Die at the given append to the journal: before it, with half a line written, or right after it."""
    original = JournalFileBackend.append_logs
    appends = [0]

    def deadly(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        appends[0] += 1
        if appends[0] != append:
            original(self, logs)
            return
        if moment == "after":
            original(self, logs)
        if moment == "within":
            line = json.dumps(logs[0]).encode()
            with bench.folder.journal.open("ab") as stream:
                stream.write(line[: len(line) // 2])
        (bench.folder.path / "study.journal.lock").symlink_to(bench.folder.journal)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", deadly)
        yield appends


def story(bench: Any) -> list[Any]:
    """Decisions of a run by proposal, with dominating trials by proposal too."""
    records = bench.records()
    latest = {record.index: record for record in records}
    index = {record.number: record.index for record in records}
    return [
        (
            record.architecture.to_json(),
            record.state,
            record.origin,
            record.rungs,
            record.values,
            None if record.dominated_by is None else index[record.dominated_by],
            None if record.duplicate_of is None else index[record.duplicate_of],
        )
        for _, record in sorted(latest.items())
    ]


def assert_accounted_for(bench: Any) -> None:
    """Every requested trial once, none lost, none twice, none left running."""
    records = bench.records()
    trained = [record for record in records if record.trained]
    assert len(trained) == bench.search.trials
    assert len({record.architecture for record in trained}) == len(trained)
    assert len({record.index for record in trained}) == len(trained)
    assert not [record.number for record in records if record.state == "running"]
    followed = {record.retry_of for record in records}
    for record in records:
        if record.state == "interrupted":
            assert record.number in followed
    assert {trial.state for trial in read_study(bench.folder).trials} <= {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
    }


def search_and_die(make_bench: Callable[..., Any], sampler: str, every: int, first: int, moment: str) -> None:
    search = SearchConfig(trials=9, seeds=2, sampler=sampler)
    options = {"search": search, "budget": Budget.parse({"flops": "40k"}), "seed": 5}
    whole = make_bench(**options)
    with death(whole, -1, moment) as appends:
        whole.run()
    assert_accounted_for(whole)
    assert len({state for _, state, *_ in story(whole)} & {"complete", "pruned"}) == 2
    for append in range(first, appends[0] + 1, every):
        bench = make_bench(**options)
        with death(bench, append, moment), pytest.raises(Killed):
            bench.run()
        bench.run()
        assert_accounted_for(bench)
        assert story(bench) == story(whole), f"died {moment} append {append}"


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_killed_and_resumed_is_as_uninterrupted(make_bench: Callable[..., Any], sampler: str, moment: str) -> None:
    first = 1 + 4 * MOMENTS.index(moment) + {"tpe": 0, "nsga2": 1, "random": 2}[sampler]
    search_and_die(make_bench, sampler, every=13, first=first, moment=moment)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_killed_at_any_append_and_resumed_is_as_uninterrupted(
    make_bench: Callable[..., Any], sampler: str, moment: str
) -> None:
    search_and_die(make_bench, sampler, every=1, first=1, moment=moment)


def test_dying_again_and_again_ends_the_same(make_bench: Callable[..., Any]) -> None:
    options = {"search": SearchConfig(trials=8, seeds=2), "seed": 5}
    whole, bench = make_bench(**options), make_bench(**options)
    whole.run()
    deaths = random.Random(0)
    for _ in range(60):
        with death(bench, deaths.randint(3, 12), deaths.choice(MOMENTS)):
            try:
                bench.run()
                break
            except Killed:
                continue
    assert story(bench) == story(whole)
    assert_accounted_for(bench)


class Crowd:
    """Several workers in one process: whichever has something to say is heard next, at random."""

    def __init__(self, workers: int, seed: int) -> None:
        self._workers, self._random = workers, random.Random(seed)

    def run(self, source: Any, evaluator: Any) -> None:
        flying: dict[str, tuple[Work, Any]] = {}
        exhausted = False
        while not exhausted or flying:
            if not exhausted and len(flying) < self._workers:
                work = source.next()
                exhausted = work is None
                if work is not None:
                    flying[work.key] = (work, evaluator.start(work))
                continue
            key = self._random.choice(sorted(flying))
            work, run = flying[key]
            result: RungResult = run.next_rung()
            goes_on = source.report(key, result)
            if not goes_on or result.rung == len(work.rungs) - 1:
                source.finish(key, Outcome("complete" if goes_on else "stopped"))
                del flying[key]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_many_workers_and_many_deaths_account_for_every_trial_once(
    make_bench: Callable[..., Any], sampler: str, seed: int
) -> None:
    bench = make_bench(search=SearchConfig(trials=14, seeds=3, sampler=sampler), budget=Budget.parse({"flops": "40k"}))
    deaths = random.Random(seed)
    for life in range(100):
        try:
            with death(bench, deaths.randint(5, 25), deaths.choice(MOMENTS)), bench.controller() as controller:
                Crowd(4, life).run(controller, bench.evaluator)
            break
        except Killed:
            continue
    assert_accounted_for(bench)
    assert Counter(record.state for record in bench.records())["interrupted"] > 0
    with bench.controller() as controller:
        assert controller.next() is None


@pytest.mark.parametrize("append", [4, 9, 20])
def test_a_full_disk_ends_the_search_in_one_sentence_and_keeps_what_is_done(
    make_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, append: int
) -> None:
    whole, bench = make_bench(), make_bench()
    whole.run()
    original = JournalFileBackend.append_logs
    left = [append]

    def full(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        left[0] -= 1
        if left[0] <= 0:
            with bench.folder.journal.open("ab") as stream:
                stream.write(b'{"op_code":8,"tri')
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, logs)

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", full)
        with pytest.raises(RunError, match="is full; what was recorded is kept: make space, then resume"):
            bench.run()
    bench.run()
    assert_accounted_for(bench)
    assert story(bench) == story(whole)


def test_an_end_that_was_decided_is_completed_after_a_death(make_bench: Callable[..., Any]) -> None:
    """A trial whose last report, stop or fault is in the journal does not train again."""
    bench = make_bench(search=SearchConfig(trials=3, seeds=3))
    with bench.controller() as controller:
        works = [controller.next() for _ in range(3)]
        assert all(works)
        first, second, third = works
        for rung, quality in enumerate([0.5, 0.6, 0.7]):
            controller.report(first.key, RungResult(rung, rung, quality, 1.0))
        assert not controller.report(second.key, RungResult(0, 0, 0.1, 1.0))
        assert not controller.report(third.key, RungResult(0, 0, float("nan"), 1.0))
        for work in works:
            work.checkpoint.mkdir(parents=True)
    with bench.controller() as controller:
        assert controller.next() is None
    records = bench.records()
    assert [record.state for record in records] == ["complete", "pruned", "failed"]
    assert records[0].values == (0.7, records[0].costs["flops"])
    assert not any(work.checkpoint.exists() for work in works)


def test_what_a_retry_has_reported_before_is_not_asked_again(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=2, seeds=2))
    with bench.controller() as controller:
        cheap, costly = controller.next(), controller.next()
        controller.report(cheap.key, RungResult(0, 10, 0.5, 1.0))
        controller.report(costly.key, RungResult(0, 10, 0.9, 1.0))
    with bench.controller() as controller:
        again = controller.next()
        assert again == cheap
        size = bench.folder.journal.stat().st_size
        assert controller.report(cheap.key, RungResult(0, 10, 0.1, 1.0))
        assert bench.folder.journal.stat().st_size == size
        other = controller.next()
        assert other == costly
        # It is dominated by a trial of this session, by what that had reported in the last one.
        assert controller.report(cheap.key, RungResult(1, 30, 0.8, 3.0))
        assert not controller.report(costly.key, RungResult(1, 30, 0.7, 3.0))
        controller.finish(costly.key, Outcome("stopped"))
    record = bench.records()[3]
    assert (record.state, record.dominated_by, record.rungs) == ("pruned", 2, {0: 0.9, 1: 0.7})


def test_a_trial_left_waiting_or_running_by_hand_does_not_survive(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=2, seeds=2))
    with bench.controller() as controller:
        controller.next()
    study = read_study(bench.folder)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    assert isinstance(study.sampler, optuna.samplers.RandomSampler)
    with bench.controller():
        pass
    assert [trial.state for trial in read_study(bench.folder).trials] == [TrialState.FAIL]
    assert bench.records()[0].interrupted == "died"


@pytest.mark.parametrize("cause", ["worker died (Ray does not say why), 2 times", "OSError: No space left on device"])
def test_a_run_of_which_every_worker_died_is_not_dead(make_bench: Callable[..., Any], cause: str) -> None:
    bench = make_bench(search=SearchConfig(trials=3, seeds=2, pruning={"rule": "none"}))
    with bench.controller() as controller:
        for _ in range(3):
            work = controller.next()
            while work is None:
                work = controller.next()
            controller.finish(work.key, Outcome("failed", cause))
        with pytest.raises(RunError, match="all of the first 3 candidates failed"):
            controller.conclude()
    bench.run()
    states = Counter(record.state for record in bench.records() if record.state not in ("duplicate", "over_budget"))
    assert states == {"interrupted": 3, "complete": 3}


def test_a_candidate_that_failed_by_itself_stays_so(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=3, seeds=2, pruning={"rule": "none"}))
    with bench.controller() as controller:
        first, second = controller.next(), controller.next()
        assert first is not None
        assert second is not None
        controller.finish(first.key, Outcome("failed", "worker died (Segmentation fault)"))
        for rung in range(len(second.rungs)):
            controller.report(second.key, RungResult(rung, 1, 0.5, 1.0))
        controller.finish(second.key, Outcome("complete"))
    bench.run()
    states = Counter(record.state for record in bench.records() if record.state not in ("duplicate", "over_budget"))
    assert states == {"failed": 1, "complete": 2}
