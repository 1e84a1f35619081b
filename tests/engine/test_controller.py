import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from nas_distill.config import PruningConfig, ScalarConfig, ScoreConfig, SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.controller import DEATHS, REPEATS, Controller
from nas_distill.engine.early_stopping import NoRule
from nas_distill.engine.ledger import Ledger
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.runs.journal import read_metadata, read_study
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.errors import BudgetError, BuildError, RunError, StorageError
from nas_distill.utils.seeds import derive

SMALL = {"width": [8, 16, 24], "depth": [1, 2, 3]}


def small_costs(architecture: Architecture) -> dict[str, float]:
    return {"flops": float(architecture.values["width"] * architecture.values["depth"])}


def small(make_bench: Callable[..., Any], **options: Any) -> Any:
    space = SearchSpace.from_dict(SMALL, builder="builtins:dict")
    bench = make_bench(**{"space": space, "costs": small_costs, **options})
    bench.evaluator.quality = lambda architecture, share: share * architecture.values["width"] / 30
    return bench


def result(rung: int, quality: float, seconds: float = 1.0) -> RungResult:
    return RungResult(rung, 10 * (rung + 1), quality, seconds)


def train(controller: Controller, work: Work, *qualities: float) -> bool:
    answers = [controller.report(work.key, result(rung, quality)) for rung, quality in enumerate(qualities)]
    return all(answers)


def next_work(controller: Controller) -> Work:
    work = controller.next()
    assert work is not None
    return work


# Counting.


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_exactly_the_requested_trials_are_trained(make_bench: Callable[..., Any], sampler: str) -> None:
    search = SearchConfig(trials=15, seeds=3, sampler=sampler)
    bench = make_bench(search=search, budget=Budget.parse({"flops": "60k"}))
    controller = bench.run()
    states = Counter(record.state for record in bench.records())
    assert states["complete"] + states["pruned"] == 15
    assert set(states) <= {"complete", "pruned", "over_budget", "duplicate"}
    assert len(bench.evaluator.started) == len(set(bench.evaluator.started)) == 15
    progress = controller.conclude()
    assert (progress.requested, progress.done, progress.running, progress.waiting) == (15, 15, 0, 0)
    assert progress.end_reason == "all 15 trials are done or under way"
    assert read_metadata(bench.folder).end_reason == progress.end_reason


def test_no_architecture_is_trained_twice_or_over_budget(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(
        search=SearchConfig(trials=25, seeds=4), budget=Budget.parse({"flops": "30k", "params": [20, 400]})
    )
    bench.run()
    records = bench.records()
    trained = [record for record in records if record.trained]
    assert len({record.architecture for record in trained}) == len(trained) == 25
    for record in records:
        assert record.costs == bench.costs(record.architecture)
        assert record.violations == bench.budget.violations(record.costs)
        if record.state == "over_budget":
            assert record.violations
            assert not record.reports
        if record.trained:
            assert not record.violations


def test_every_candidate_trains_under_the_same_seed_and_settings(bench: Any) -> None:
    with bench.controller() as controller:
        works = [next_work(controller) for _ in range(3)]
    assert {work.seed for work in works} == {derive(0, "training")}
    assert all(work.training is bench.score.training and work.rungs == bench.score.rungs for work in works)
    assert [work.key for work in works] == ["t00000", "t00001", "t00002"]
    assert [work.checkpoint for work in works] == [bench.folder.checkpoint(work.key) for work in works]


def test_the_first_candidates_are_the_seeds(bench: Any) -> None:
    bench.run()
    records = bench.records()
    assert [record.origin for record in records[:4]] == [*["first_candidate"] * 3, "sampler"]
    assert records[0].architecture == bench.space.smallest()
    assert records[1].architecture == bench.space.largest()
    assert [Architecture(values) for values in read_metadata(bench.folder).first_candidates] == [
        record.architecture for record in records[:3]
    ]


def test_without_seeds_the_sampler_begins(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=3, seeds=0))
    bench.run()
    assert [record.origin for record in bench.records()] == ["sampler"] * 3


@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_deciding_lists_no_trials(
    make_bench: Callable[..., Any], sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed at every event makes a search take time in proportion to the square of its trials."""
    bench = make_bench(search=SearchConfig(trials=20, sampler=sampler), budget=Budget.parse({"flops": "60k"}))
    with bench.controller() as controller:
        controller._on_event = lambda event: controller.progress() and None

        def listed(*_: Any, **__: Any) -> None:
            raise AssertionError("all trials are listed")

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "get_trials", listed)
            patch.setattr(JournalStorage, "get_all_trials", listed)
            patch.setattr(Ledger, "__iter__", listed)
            InProcessBackend().run(controller, bench.evaluator)
        assert controller.progress().done == 20


# What the journal says of each outcome.


def test_a_completed_candidate_is_reported_with_its_last_quality_and_its_costs(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=2, costs=("params", "flops")))
    with bench.controller() as controller:
        work = next_work(controller)
        assert train(controller, work, 0.2, 0.3, 0.4)
        bench.folder.checkpoint(work.key).mkdir(parents=True)
        controller.finish(work.key, Outcome("complete"))
        assert not bench.folder.checkpoint(work.key).exists()
    trial = read_study(bench.folder).trials[0]
    costs = bench.costs(work.architecture)
    assert trial.state is TrialState.COMPLETE
    assert trial.values == [0.4, costs["params"], costs["flops"]]
    assert read_study(bench.folder).metric_names == ["quality", "params", "flops"]


def test_a_dominated_candidate_is_stopped_and_names_what_dominates_it(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=6, seeds=3, pruning={"margin": 0.01}))
    with bench.controller() as controller:
        cheap, costly = next_work(controller), next_work(controller)
        assert bench.costs(cheap.architecture)["flops"] < bench.costs(costly.architecture)["flops"]
        assert controller.report(cheap.key, result(0, 0.5))
        assert not controller.report(costly.key, result(0, 0.489))
        controller.finish(costly.key, Outcome("stopped"))
        assert read_study(bench.folder).trials[1].state is TrialState.PRUNED
    record = bench.records()[1]
    assert record.state == "pruned"
    assert record.stop is not None
    assert (record.dominated_by, record.stop.dominating_quality, record.margin, record.stop.rung) == (0, 0.5, 0.01, 0)


def test_dominance_is_at_equal_fidelity_and_the_last_rung_is_not_judged(bench: Any) -> None:
    with bench.controller() as controller:
        cheap, costly = next_work(controller), next_work(controller)
        assert controller.report(cheap.key, result(0, 0.5))
        assert controller.report(cheap.key, result(1, 0.9))
        assert controller.report(costly.key, result(0, 0.6))  # 0.9 was reached later in training
        assert controller.report(cheap.key, result(2, 0.95))
        controller.finish(cheap.key, Outcome("complete"))
        assert controller.report(costly.key, result(1, 0.91))
        assert controller.report(costly.key, result(2, 0.1))
        controller.finish(costly.key, Outcome("complete"))
    assert [record.state for record in bench.records()] == ["complete", "complete"]


def test_a_trial_that_fails_later_still_dominates(bench: Any) -> None:
    with bench.controller() as controller:
        cheap, costly = next_work(controller), next_work(controller)
        controller.report(cheap.key, result(0, 0.9))
        controller.finish(cheap.key, Outcome("failed", "its worker died"))
        assert not controller.report(costly.key, result(0, 0.1))
    assert bench.records()[0].cause == "its worker died"


def test_repeated_reports_get_the_first_answer(bench: Any) -> None:
    with bench.controller() as controller:
        cheap, costly = next_work(controller), next_work(controller)
        assert controller.report(cheap.key, result(0, 0.5))
        assert not controller.report(costly.key, result(0, 0.1))
        size = bench.folder.journal.stat().st_size
        assert controller.report(cheap.key, result(0, 0.01))
        assert not controller.report(costly.key, result(0, 0.9))
        assert not controller.report(costly.key, result(1, 0.9))  # stopped is stopped
        assert bench.folder.journal.stat().st_size == size
        controller.finish(costly.key, Outcome("complete"))
    cheap_record, dear_record = bench.records()
    assert cheap_record.rungs == {0: 0.5}
    assert (dear_record.state, dear_record.rungs) == ("pruned", {0: 0.1})


@pytest.mark.parametrize("rung", [0, 2])
@pytest.mark.parametrize("quality", [math.nan, math.inf, -math.inf])
def test_a_quality_that_is_not_finite_fails_and_dominates_nothing(bench: Any, rung: int, quality: float) -> None:
    with bench.controller() as controller:
        cheap, costly = next_work(controller), next_work(controller)
        train(controller, cheap, *[0.1, 0.2][:rung])
        assert not controller.report(cheap.key, result(rung, quality))
        assert not controller.report(cheap.key, result(rung, 0.5))
        controller.finish(cheap.key, Outcome("complete"))
        assert controller.report(costly.key, result(0, 0.3))
    record = bench.records()[0]
    assert record.state == "failed"
    assert f"its quality was {quality} at rung {rung}" in (record.cause or "")
    assert rung not in record.rungs


def test_ending_before_the_last_rung_is_a_failure(bench: Any) -> None:
    with bench.controller() as controller:
        first, second = next_work(controller), next_work(controller)
        controller.report(first.key, result(0, 0.5))
        controller.finish(first.key, Outcome("complete"))
        controller.finish(second.key, Outcome("stopped"))
    assert [record.cause for record in bench.records()] == [
        "its training ended as complete before its last rung",
        "its training ended as stopped before its last rung",
    ]


def test_an_over_budget_candidate_carries_its_violations_as_constraints(make_bench: Callable[..., Any]) -> None:
    bench = small(
        make_bench, search=SearchConfig(trials=2, seeds=0, sampler="random"), budget=Budget.parse({"flops": 16})
    )
    bench.run()
    for record, trial in zip(bench.records(), read_study(bench.folder).trials):
        excess = max(0.0, record.costs["flops"] / 16 - 1)
        assert trial.constraints == {"flops": pytest.approx(excess)}
        if record.state == "over_budget":
            assert trial.state is TrialState.PRUNED
            assert excess > 0
    assert {"over_budget", "complete"} <= {record.state for record in bench.records()}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_repeated_architecture_is_reported_again_and_never_trained(
    make_bench: Callable[..., Any], sampler: str
) -> None:
    search = SearchConfig(trials=8, seeds=2, sampler=sampler)
    bench = small(make_bench, search=search, budget=Budget.parse({"flops": 60}))
    bench.run()
    records, trials = bench.records(), read_study(bench.folder).trials
    twins = [record for record in records if record.state == "duplicate"]
    assert twins
    for twin in twins:
        assert twin.duplicate_of is not None
        original = records[twin.duplicate_of]
        assert original.architecture == twin.architecture
        assert original.state != "duplicate"
        assert trials[twin.number].state is trials[original.number].state
        assert trials[twin.number].values == trials[original.number].values
        assert trials[twin.number].constraints == trials[original.number].constraints
        assert not twin.reports


def test_a_repeat_of_what_is_in_flight_is_reported_to_the_sampler_once_that_has_ended(
    make_bench: Callable[..., Any],
) -> None:
    search = SearchConfig(trials=9, seeds=0, sampler="tpe")
    bench = small(make_bench, search=search, options={"rule": NoRule()})
    with bench.controller() as controller:
        works = [next_work(controller) for _ in range(9)]
        proposals = controller._proposals
        twins = [record for record in bench.records() if record.state == "duplicate"]
        assert twins
        assert all(proposals.is_open(twin.index) for twin in twins)
        for work in works:
            train(controller, work, 0.1, 0.2, 0.3)
            controller.finish(work.key, Outcome("complete"))
        assert not any(proposals.is_open(index) for index in range(len(bench.records())))
    # The journal's own states are final at once, so that nothing is ever left running.
    assert {trial.state for trial in read_study(bench.folder).trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_after_twenty_repeats_in_a_row_something_unseen_is_drawn(
    make_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = small(make_bench, search=SearchConfig(trials=4, seeds=1))
    with bench.controller() as controller:
        proposals = controller._proposals
        smallest = bench.space.smallest()
        monkeypatch.setattr(proposals, "ask", lambda: proposals.insert(smallest, "sampler"))
        InProcessBackend().run(controller, bench.evaluator)
    origins = [record.origin for record in bench.records()]
    # And no twenty more before the next: the sampler has to bring something of its own first.
    assert origins == ["first_candidate", *["sampler"] * REPEATS, *["random"] * 3]
    assert len({record.architecture for record in bench.records()}) == 4


def test_an_exhausted_space_ends_the_search_and_says_so(make_bench: Callable[..., Any]) -> None:
    bench = small(make_bench, search=SearchConfig(trials=40))
    progress = bench.run().conclude()
    assert progress.done == 9
    assert progress.end_reason == "all 9 architectures of the space have been tried"


# Failures.


def test_what_cannot_be_built_fails_and_the_search_continues(make_bench: Callable[..., Any]) -> None:
    def costs(architecture: Architecture) -> dict[str, float]:
        if architecture.values["width"] == 16:
            raise BuildError("a width of 16 cannot be built")
        if architecture.values["width"] == 24:
            raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied")
        return small_costs(architecture)

    bench = small(make_bench, search=SearchConfig(trials=9), costs=costs)
    progress = bench.run().conclude()
    assert (progress.complete + progress.pruned, progress.failed) == (3, 6)
    causes = {record.cause for record in bench.records() if record.state == "failed"}
    assert causes == {"a width of 16 cannot be built", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"}


def test_a_cost_that_is_not_finite_is_a_failure(make_bench: Callable[..., Any]) -> None:
    bench = small(make_bench, search=SearchConfig(trials=3), costs=lambda architecture: {"flops": math.nan})
    with pytest.raises(RunError, match="its flops is nan"):
        bench.run().conclude()


@pytest.mark.parametrize("trials", [3, 200])
def test_when_all_candidates_fail_the_first_cause_is_given(make_bench: Callable[..., Any], trials: int) -> None:
    def costs(architecture: Architecture) -> dict[str, float]:
        raise BuildError(f"attempt {len(asked)} went wrong.")

    asked: list[int] = []
    bench = make_bench(search=SearchConfig(trials=trials, seeds=2), costs=costs)
    with pytest.raises(RunError, match=r"all of the first \d+ candidates failed; the first, trial 0, with: attempt 0"):
        bench.run().conclude()
    assert len(bench.records()) <= max(REPEATS, 2 + 10)


def test_when_all_trainings_fail_the_first_cause_is_given(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=200), options={"rule": NoRule()})
    bench.evaluator.quality = lambda architecture, share: math.nan
    with pytest.raises(RunError, match="its quality was nan at rung 0"):
        bench.run()
    assert len(bench.records()) < 40


def test_when_nothing_fits_the_limit_that_binds_and_the_cheapest_are_named(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(budget=Budget.parse({"params": 10_000, "flops": 100}), options={"patience": 30})
    with pytest.raises(BudgetError, match=r"'flops' \(at most 100\) binds.*cheapest found has 192"):
        bench.run()
    assert {record.state for record in bench.records()} <= {"over_budget", "duplicate"}
    with pytest.raises(BudgetError, match="binds"):  # resuming finds the same at once
        bench.run()
    assert bench.evaluator.started == []


def test_a_whole_space_over_budget_is_an_error_too(make_bench: Callable[..., Any]) -> None:
    bench = small(make_bench, budget=Budget.parse({"flops": 7}))
    with pytest.raises(BudgetError, match="none of 9 candidates fits"):
        bench.run()


def test_when_little_fits_the_search_ends_once_nothing_new_comes(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(budget=Budget.parse({"flops": 200}), options={"patience": 40}, search=SearchConfig(trials=30))
    progress = bench.run().conclude()
    assert 0 < progress.done < 30
    assert progress.end_reason == "nothing new within the budget came up in 40 proposals"


def test_an_error_in_a_listener_is_raised(bench: Any) -> None:
    def listen(event: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.run(on_event=listen)


# Stopping, and time.


def test_stopping_interrupts_and_resuming_continues(make_bench: Callable[..., Any]) -> None:
    whole = make_bench()
    whole.run()
    bench = make_bench()
    with bench.controller() as controller:
        count = 0

        def stop_at_fifth(event: Any) -> None:
            nonlocal count
            count += event.kind == "rung"
            if count == 5:
                controller.stop()

        controller._on_event = stop_at_fifth
        InProcessBackend().run(controller, bench.evaluator)
        assert controller.stopping
        assert controller.next() is None
        assert controller.conclude().waiting == 1
    assert read_metadata(bench.folder).end_reason is None
    interrupted = bench.records()[-1]
    assert (interrupted.state, interrupted.interrupted) == ("interrupted", "stopped")
    assert bench.folder.checkpoint(interrupted.key).exists()
    bench.run()
    retry = bench.records()[interrupted.number + 1]
    assert (retry.retry_of, retry.key, retry.index) == (interrupted.number, interrupted.key, interrupted.index)
    assert retry.rungs.items() >= interrupted.rungs.items()
    assert story(bench) == story(whole)


@pytest.mark.parametrize(
    ("limit", "states"),
    [(None, ["interrupted"]), ("1k", ["over_budget"])],
    ids=["a candidate to train", "one over budget"],
)
def test_asked_to_stop_while_it_looks_at_a_candidate_it_looks_at_no_other(
    make_bench: Callable[..., Any], limit: str | None, states: list[str]
) -> None:
    bench = make_bench(
        search=SearchConfig(trials=3, seeds=0), budget=Budget.parse({} if limit is None else {"flops": limit})
    )
    with bench.controller() as controller:

        def costs(architecture: Architecture) -> dict[str, float]:
            controller.stop()
            return {"flops": 2000.0}

        controller._pricing = Pricing(costs)
        InProcessBackend().run(controller, bench.evaluator)
    assert [record.state for record in bench.records()] == states
    assert bench.evaluator.started == []


def test_asked_to_stop_among_repeated_proposals_it_makes_no_more_and_continues_when_resumed(
    make_bench: Callable[..., Any],
) -> None:
    """What was trained last is then not the last in the journal."""
    bench = small(make_bench, search=SearchConfig(trials=6, seeds=0, sampler="random"))
    with bench.controller() as controller:

        def stop_at_a_repetition(event: Any) -> None:
            if event.kind == "duplicate":
                controller.stop()

        controller._on_event = stop_at_a_repetition
        flying = [next_work(controller)]
        while (work := controller.next()) is not None:
            flying.append(work)
        for work in flying:
            controller.finish(work.key, Outcome("interrupted"))
    states = [record.state for record in bench.records()]
    assert states == ["interrupted"] * len(flying) + ["duplicate"]
    bench.run()
    assert sum(record.trained for record in bench.records()) == 6


def test_the_time_limit_ends_what_runs_as_interrupted_and_it_is_continued(make_bench: Callable[..., Any]) -> None:
    now = [0.0]
    search = SearchConfig(trials=20, time_limit_minutes=2)
    bench = make_bench(search=search, options={"clock": lambda: now[0]})
    with bench.controller() as controller:
        done, running = next_work(controller), next_work(controller)
        assert train(controller, done, 0.1, 0.2, 0.3)
        controller.finish(done.key, Outcome("complete"))
        assert not controller.stopping
        now[0] = 121
        assert controller.stopping
        assert controller.next() is None
        controller.finish(running.key, Outcome("interrupted"))
        progress = controller.conclude()
    assert progress.end_reason == "the time limit of 2 minutes is reached"
    assert progress.complete == 1
    with bench.controller() as controller:
        assert next_work(controller).key == running.key


def test_a_time_limit_before_the_first_end_is_an_error_that_says_so(make_bench: Callable[..., Any]) -> None:
    now = [0.0]
    bench = make_bench(search=SearchConfig(trials=20, time_limit_minutes=2), options={"clock": lambda: now[0]})
    with bench.controller() as controller:
        running = next_work(controller)
        now[0] = 121
        controller.finish(running.key, Outcome("interrupted"))
        with pytest.raises(RunError, match="before any candidate was trained to its end"):
            controller.conclude()


@pytest.mark.parametrize("sampler", ["tpe", "known_cost"])  # the latter counts costs itself
def test_a_full_disk_as_costs_are_counted_fails_no_candidate(make_bench: Callable[..., Any], sampler: str) -> None:
    def full(architecture: Any) -> dict[str, float]:
        raise StorageError("the disk is full.")

    bench = make_bench(search=SearchConfig(trials=3, seeds=0, sampler=sampler), costs=full)
    with bench.controller() as controller, pytest.raises(StorageError):
        controller.next()
    assert bench.records() == []


def story(bench: Any) -> list[Any]:
    """The content of a run: for each proposal its architecture, state, rungs and the trial that dominated it."""
    latest = {record.index: record for record in bench.records()}
    index = {record.number: record.index for record in bench.records()}
    return [
        (
            record.architecture.to_json(),
            record.state,
            record.rungs,
            record.values,
            record.dominated_by is not None and index[record.dominated_by],
        )
        for _, record in sorted(latest.items())
    ]


def test_the_process_may_not_die_on_one_candidate_for_ever(bench: Any) -> None:
    with bench.controller() as controller:
        assert next_work(controller).key == "t00000"
    for death in range(1, DEATHS):
        with bench.controller() as controller:
            work = next_work(controller)
            assert (work.key, work.checkpoint) == ("t00000", bench.folder.checkpoint("t00000"))
            assert bench.records()[-1].retry_of == death - 1
    with bench.controller() as controller:
        assert next_work(controller).key != "t00000"
    states = Counter((record.state, record.cause) for record in bench.records())
    assert states[("failed", f"the search died {DEATHS} times in a row while it was being trained")] == 1


def test_a_rung_gained_between_deaths_is_patience_gained(bench: Any) -> None:
    for rung in range(2):
        for _ in range(DEATHS - 1):
            with bench.controller() as controller:
                work = next_work(controller)
                assert work.key == "t00000"
                controller.report(work.key, result(rung, 0.5))
    with bench.controller() as controller:
        assert next_work(controller).key == "t00000"


# Objectives, rules, progress.


def test_a_scalar_is_the_only_objective_and_pruning_compares_its_cost(make_bench: Callable[..., Any]) -> None:
    search = SearchConfig(trials=10, scalar=ScalarConfig(cost="params", target=100))
    bench = make_bench(search=search)
    bench.run()
    objectives = Objectives.from_config(search)
    study = read_study(bench.folder)
    assert study.metric_names == ["reward"]
    records = bench.records()
    for record, trial in zip(records, study.trials):
        if record.state == "complete":
            assert trial.values == objectives.values(record.final_quality, record.costs)
        if record.dominated_by is not None:
            assert records[record.dominated_by].costs["params"] <= record.costs["params"]
    assert any(record.state == "pruned" for record in records)


def test_no_rule_stops_nobody(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=10, pruning=PruningConfig(rule="none")))
    assert bench.run().progress().complete == 10


def test_a_measured_margin_stands_in_and_is_noted(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=10, pruning=PruningConfig(margin="auto")))
    assert bench.run(margin=(1.0, 1.0)).progress().pruned == 0
    assert read_metadata(bench.folder).margin == (1.0, 1.0)


def test_progress_sums_the_run_up(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(search=SearchConfig(trials=20), budget=Budget.parse({"flops": "60k"}))
    progress = bench.run().progress()
    records = bench.records()
    complete = [record for record in records if record.state == "complete"]
    best = max(complete, key=lambda record: record.final_quality)
    assert progress.best is not None
    assert (progress.best.number, progress.best.quality) == (best.number, best.final_quality)
    assert progress.best.costs == best.costs
    assert progress.reference == {"flops": 60_000.0}
    assert progress.seconds_trained == pytest.approx(sum(record.seconds for record in records))
    assert progress.seconds_saved == pytest.approx(sum(record.seconds_saved for record in records))
    # In this simulation a whole training takes ten seconds, trained or saved.
    assert progress.seconds_trained + progress.seconds_saved == pytest.approx(200)
    assert 0 < progress.front_size <= len(complete)
    assert 0 < progress.hypervolume < best.final_quality


def test_progress_is_readable_at_every_event(bench: Any) -> None:
    seen = []
    with bench.controller() as controller:
        controller._on_event = lambda event: seen.append((event.kind, controller.progress()))
        InProcessBackend().run(controller, bench.evaluator)
    kinds = Counter(kind for kind, _ in seen)
    assert kinds["started"] == kinds["complete"] + kinds["pruned"] == 12
    assert kinds["ended"] == 1
    first = seen[0][1]
    assert (first.running, first.best, first.front_size, first.hypervolume, first.seconds_left) == (1, None, 0, 0, None)
    volumes = [progress.hypervolume for _, progress in seen]
    assert volumes == sorted(volumes)


def test_the_reference_is_given_or_comes_from_the_largest_first_candidate_and_is_kept(
    make_bench: Callable[..., Any],
) -> None:
    bench = make_bench()
    first = bench.run().progress().reference
    assert first == {"flops": bench.costs(bench.space.largest())["flops"]}
    assert bench.run(reference={"flops": 5.0}).progress().reference == first
    assert make_bench().run(reference={"flops": 5.0}).progress().reference == {"flops": 5.0}


def test_a_finished_search_that_is_opened_again_has_nothing_to_do(bench: Any) -> None:
    bench.run()
    records = bench.records()
    with bench.controller() as controller:
        assert controller.next() is None
        assert controller.progress().done == 12
    assert bench.records() == records


def test_more_trials_may_be_asked_for_when_resuming(bench: Any) -> None:
    bench.run()
    bench.search = SearchConfig(trials=15, seeds=3)
    assert bench.run().progress().done == 15


# Reproduction.


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_the_same_seed_gives_the_same_search_and_another_gives_another(
    make_bench: Callable[..., Any], sampler: str
) -> None:
    search = SearchConfig(trials=14, seeds=2, sampler=sampler)
    first, second, other = (make_bench(search=search, seed=seed) for seed in (3, 3, 4))
    for bench in (first, second, other):
        bench.run()
    assert story(first) == story(second)
    assert story(first) != story(other)


def test_a_path_with_spaces_serves(make_bench: Callable[..., Any], tmp_path: Path) -> None:
    bench = make_bench()
    bench.folder = type(bench.folder)(tmp_path / "a run with spaces" / ("long" * 40))
    assert bench.run().progress().done == 12


def test_score_with_one_rung_judges_nobody(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(score=ScoreConfig(rungs=(1.0,)))
    assert bench.run().progress().complete == 12


def products(architecture: Architecture) -> dict[str, float]:
    return {"flops": float(math.prod(value for value in architecture.values.values() if isinstance(value, int)))}


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "known_cost"])
@pytest.mark.parametrize("widths", [6, 60])
def test_a_space_with_one_feasible_architecture_ends_when_it_is_seen(
    make_bench: Callable[..., Any], sampler: str, widths: int
) -> None:
    width = [8 * place for place in range(1, widths + 1)]
    space = SearchSpace.from_dict({"width": width, "depth": [1, 2, 3, 4], "kernel": [3, 5, 7]}, builder="builtins:dict")
    bench = small(
        make_bench,
        space=space,
        search=SearchConfig(trials=30, seeds=2, sampler=sampler),
        budget=Budget.parse({"flops": 24}),
        costs=products,
    )
    progress = bench.run().conclude()
    assert progress.done == 1
    assert progress.end_reason is not None
    assert progress.end_reason.endswith(f": 1 of the {12 * widths} of the space")
    # The space is enumerated once the sampler has nothing: at its first miss where that is quick.
    assert len(bench.records()) <= 2 + (1 if widths == 6 else REPEATS)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "known_cost"])
def test_few_feasible_architectures_are_all_tried_and_then_the_search_ends(
    make_bench: Callable[..., Any], sampler: str
) -> None:
    space = SearchSpace.from_dict(
        {"width": list(range(8, 328, 8)), "depth": [1, 2, 3, 4], "kernel": [3, 5, 7]}, builder="builtins:dict"
    )
    bench = small(
        make_bench,
        space=space,
        search=SearchConfig(trials=30, seeds=2, sampler=sampler),
        budget=Budget.parse({"flops": 72}),
        costs=products,
    )
    feasible = {one.hash for one in space.every() if products(one)["flops"] <= 72}
    progress = bench.run().conclude()
    assert {record.architecture.hash for record in bench.records() if record.trained} == feasible
    assert progress.done == len(feasible) < 30
    # Of those drawn without the sampler none is over budget, since their costs are known.
    assert {record.state for record in bench.records() if record.origin == "random"} <= {"complete", "pruned"}


def test_what_cannot_be_built_is_recorded_before_the_search_ends(make_bench: Callable[..., Any]) -> None:
    def costs(architecture: Architecture) -> dict[str, float]:
        if architecture.values["width"] == 16:
            raise BuildError("a width of 16 cannot be built")
        return small_costs(architecture)

    budget = Budget.parse({"flops": small_costs(Architecture({"width": 8, "depth": 2}))["flops"]})
    bench = small(make_bench, search=SearchConfig(trials=30, seeds=1), costs=costs, budget=budget)
    progress = bench.run().conclude()
    assert (progress.complete + progress.pruned, progress.failed) == (2, 3)
    assert progress.end_reason is not None
    assert progress.end_reason.endswith(": 2 of the 9 of the space")
