import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.config import FinalConfig
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.finalists import (
    FinalistSource,
    best_finalist,
    choose_finalists,
    expected_quality,
    final_progress,
)
from nas_distill.engine.work import Outcome, RungResult
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.metadata import Finalist, RunMetadata
from nas_distill.runs.pareto import front_records
from nas_distill.runs.records import Rung, TrialRecord
from nas_distill.spaces import Architecture


def record(number, quality, flops, state="complete", rung=2, params=None):
    reports = {index: Rung(quality, index + 1, 1.0, (index + 1) / 3) for index in range(rung + 1)}
    return TrialRecord(
        number=number,
        index=number,
        key=f"t{number:05}",
        state=state,
        architecture=Architecture({"width": number}),
        origin="sampler",
        costs={"flops": float(flops), "params": float(params or flops)},
        reports={} if state in ("over_budget", "duplicate") else reports,
        violations={"flops": 1.0} if state == "over_budget" else {},
        stop=None,
        cause=None,
        duplicate_of=None,
        retry_of=None,
        values=None,
    )


def numbers(records):
    return [entry.number for entry in records]


def choose(records, limit=100.0, count=3, costs=("flops",)):
    return choose_finalists(records, costs, {"flops": limit} if limit else {}, count)


# The choice.


def test_the_fronts_best_are_chosen_best_first():
    records = [record(0, 0.5, 10), record(1, 0.6, 20), record(2, 0.9, 90), record(3, 0.7, 30), record(4, 0.55, 40)]
    assert numbers(choose(records)) == [2, 3, 1]
    assert numbers(choose(records, count=2)) == [2, 3]
    assert numbers(choose(records, count=10)) == [2, 3, 1, 0]  # 4 is not on the front


def test_one_near_the_limit_takes_the_last_place_when_none_of_the_best_is():
    records = [record(0, 0.9, 30), record(1, 0.8, 20), record(2, 0.7, 10), record(3, 0.6, 95), record(4, 0.5, 80)]
    assert numbers(choose(records)) == [0, 1, 3]
    assert numbers(choose(records, count=2)) == [0, 3]
    assert numbers(choose(records, count=1)) == [0]


def test_of_equal_short_scores_the_more_expensive_is_expected_to_end_higher():
    # 2 is beaten by 1, which is cheaper, in the short run; by 2 points a doubling it is expected to end above it.
    records = [record(0, 0.5, 10), record(1, 0.81, 40), record(2, 0.80, 80), record(3, 0.7, 20)]
    assert numbers(choose_finalists(records, ("flops",), {"flops": 80.0}, 2)) == [1, 2]  # near the limit, so last
    assert numbers(choose_finalists(records, ("flops",), {}, 2, 0.02)) == [1, 2]
    assert expected_quality(0.80, 80, 0.02) > expected_quality(0.81, 40, 0.02)
    assert numbers(choose_finalists(records, ("flops",), {}, 1, 0.02)) == [2]
    assert numbers(choose_finalists(records, ("flops",), {}, 1, 0.0)) == [1]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e9)), min_size=1, max_size=8), st.floats(0, 0.1))
def test_a_single_finalist_is_the_one_of_the_highest_expectation(pairs, slope):
    records = [record(place, quality, cost) for place, (quality, cost) in enumerate(pairs)]
    (chosen,) = choose_finalists(records, ("flops",), {"flops": 1e9}, 1, slope)
    best = max(expected_quality(entry.final_quality, entry.costs["flops"], slope) for entry in records)
    assert expected_quality(chosen.final_quality, chosen.costs["flops"], slope) == best


def test_near_is_near_the_limit_of_an_objective():
    # 1 has nearly all the parameters it may have, but it is cheap in what the front trades; 3 is the costly one.
    records = [record(0, 0.9, 30), record(1, 0.8, 20, params=95), record(2, 0.7, 10), record(3, 0.6, 95, params=1)]
    limits = {"params": 100.0, "flops": 100.0}
    assert numbers(choose_finalists(records, ("flops",), limits, 3)) == [0, 1, 3]
    # Where no objective has a limit, any limit will do.
    assert numbers(choose_finalists(records, ("flops",), {"params": 100.0}, 3)) == [0, 1, 2]


def test_none_of_the_front_gives_way_when_one_of_it_is_near_the_limit():
    # 3 is costly and good, but 2 is cheaper and no worse; 0 is on the front and near the limit itself.
    records = [record(0, 0.95, 75), record(1, 0.9, 30), record(2, 0.8, 10), record(3, 0.8, 95)]
    assert numbers(choose(records)) == [0, 1, 2]


def test_a_stopped_one_has_its_chance_when_no_other_is_near_the_limit():
    records = [
        record(0, 0.9, 30),
        record(1, 0.8, 20),
        record(2, 0.6, 95, "pruned", rung=0),
        record(3, 0.5, 90, "pruned", rung=1),  # came further
        record(4, 0.4, 92, "pruned", rung=1),
        record(5, 0.99, 150, "over_budget"),
        record(6, 0.99, 99, "failed"),
    ]
    assert numbers(choose(records)) == [0, 1, 3]


def test_without_limits_or_near_ones_the_most_expensive_of_the_front_is_among_them():
    records = [record(0, 0.9, 20), record(1, 0.8, 15), record(2, 0.7, 10), record(3, 0.95, 60)]
    assert numbers(choose(records, limit=None)) == [3, 0, 1]
    assert numbers(choose(records, limit=1000)) == [3, 0, 1]
    # With two costs the most expensive by the first need not be the best.
    two = [record(0, 0.9, 20, params=90), record(1, 0.8, 15, params=50), record(2, 0.7, 40, params=10)]
    assert numbers(choose(two, limit=None, count=2, costs=("flops", "params"))) == [0, 2]


def test_near_any_limit_is_near():
    records = [record(0, 0.9, 30, params=10), record(1, 0.8, 20, params=95), record(2, 0.7, 10, params=5)]
    chosen = choose_finalists(records, ("flops",), {"flops": 1000.0, "params": 100.0}, 2)
    assert numbers(chosen) == [0, 1]


def test_nothing_that_came_through_means_no_finalists():
    assert choose([]) == []
    assert choose([record(0, 0.5, 80, "pruned"), record(1, 0.5, 10, "failed"), record(2, 0.5, 10, "running")]) == []


def test_qualities_that_are_not_finite_are_never_chosen():
    nan = float("nan")
    records = [record(0, nan, 95), record(1, 0.8, 20), record(2, nan, 90, "pruned"), record(3, 0.3, 85, "pruned")]
    assert numbers(choose(records)) == [1, 3]
    assert numbers(choose([record(0, nan, 95), record(1, 0.8, 20)])) == [1]


rows = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(1, 100),
        st.sampled_from(["complete", "complete", "pruned", "failed", "over_budget", "interrupted"]),
        st.integers(0, 2),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(1, 5))
def test_whatever_the_trials_were(found, count):
    records = [
        record(number, quality, flops, state, 2 if state == "complete" else rung)
        for number, (quality, flops, state, rung) in enumerate(found)
    ]
    chosen = choose(records, count=count)
    front = front_records(records, ["flops"])
    assert len(chosen) <= count
    assert len(set(numbers(chosen))) == len(chosen)
    assert bool(chosen) == bool(front)
    assert {entry.state for entry in chosen} <= {"complete", "pruned"}
    if front:
        best = max(entry.final_quality for entry in front)
        assert any(entry.final_quality == best for entry in chosen if entry.state == "complete")
    near = [entry for entry in records if entry.state in ("complete", "pruned") and entry.costs["flops"] >= 70]
    if front and near and count > 1:
        assert any(entry.costs["flops"] >= 70 for entry in chosen)
    assert sum(entry not in front for entry in chosen) <= 1


def finalist(trial, quality, flops=10.0, **options):
    values = {"key": f"t{trial:05}", "architecture": {"width": trial}, "costs": {"flops": flops}, "taught": True}
    return Finalist(**{**values, "trial": trial, "score": 0.5, "quality": quality, **options})


def test_the_best_is_the_taught_one_of_highest_quality_and_of_equals_the_cheaper():
    assert best_finalist([]) is None
    assert best_finalist([finalist(0, None, cause="died")]) is None
    entries = [finalist(0, 0.7), finalist(1, 0.8, 30.0), finalist(2, 0.8, 20.0), finalist(3, 0.99, taught=False)]
    assert best_finalist(entries).trial == 2


# The source.


class Book:
    """The metadata of a journal, without the journal."""

    def __init__(self):
        self.metadata = RunMetadata()

    def note(self, **changes):
        self.metadata = self.metadata.changed(**changes)


@pytest.fixture
def make_source(tmp_path):
    book = Book()

    def make(chosen, *, epochs=2, seed=0, events=None, uniform_network=None, **options):
        final = FinalConfig(epochs=epochs, **options)
        told = events.append if events is not None else (lambda entry: None)
        folder = RunFolder(tmp_path)
        return FinalistSource(folder, book, final, chosen, seed=seed, uniform=uniform_network, on_event=told)

    make.book = book
    return make


CHOSEN = [record(0, 0.9, 30), record(1, 0.8, 20), record(2, 0.6, 95, "pruned")]


class Trains:
    """An evaluator whose qualities are told beforehand, by key and epoch; it saves itself as the real one does."""

    def __init__(self, qualities=None, on_rung=lambda key, rung: None):
        self.qualities = qualities or {}
        self.on_rung = on_rung
        self.started = []

    def start(self, work):
        self.started.append(work.key)
        return Training(self, work)


class Training:
    def __init__(self, evaluator, work):
        self.evaluator, self.work = evaluator, work
        self.file = work.checkpoint / "rung"
        self.rung = int(self.file.read_text()) if self.file.exists() else 0

    def next_rung(self):
        key, rung = self.work.key, self.rung
        quality = self.evaluator.qualities.get(key, [0.5, 0.6, 0.7, 0.8])[rung]
        if isinstance(quality, Exception):
            raise quality
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(str(rung))
        self.rung += 1
        self.evaluator.on_rung(key, rung)
        return RungResult(rung, 10 * (rung + 1), quality, rung + 1.0)

    def close(self):
        pass


def run(source, evaluator=None):
    evaluator = evaluator or Trains()
    while not source.complete and not source.stopping:
        InProcessBackend().run(source, evaluator)
    return evaluator


def states(source):
    return {entry.key: (entry.quality, entry.taught, entry.cause) for entry in source.entries}


def test_each_finalist_is_trained_once_and_then_the_leaders_baseline(make_source, tmp_path):
    source = make_source(CHOSEN)
    assert not source.complete
    evaluator = run(source, Trains({"t00001": [0.5, 0.9]}))
    assert evaluator.started == ["t00000", "t00001", "t00002", "t00001-labels"]
    assert source.complete
    assert source.next() is None
    assert states(source) == {
        "t00000": (0.6, True, None),
        "t00001": (0.9, True, None),
        "t00002": (0.6, True, None),
        "t00001-labels": (0.6, False, None),
    }
    best = best_finalist(source.entries)
    assert (best.trial, best.costs["flops"], best.score) == (1, 20.0, 0.8)
    assert (best.qualities, best.seconds, best.steps) == ((0.5, 0.9), 2.0, 20)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_a_work_asks_for(make_source, tmp_path):
    source = make_source(CHOSEN[:1], epochs=2.5)
    taught, baseline = source.next(), source.next()
    assert taught.rungs == baseline.rungs == (1 / 2.5, 2 / 2.5, 1.0)
    assert (taught.teacher, baseline.teacher) == (True, False)
    assert taught.architecture == baseline.architecture == CHOSEN[0].architecture
    assert taught.seed == baseline.seed  # the same start and order: only the teacher differs
    assert taught.output == tmp_path / "students" / "t00000"
    assert len({taught.output, baseline.output}) == len({taught.checkpoint, baseline.checkpoint}) == 2
    assert taught.checkpoint != RunFolder(tmp_path).checkpoint("t00000")  # its trial's own
    assert make_source(CHOSEN[:1], seed=1).next().seed != taught.seed


def test_without_a_baseline_there_is_none(make_source):
    source = make_source(CHOSEN, baseline=False)
    assert run(source).started == ["t00000", "t00001", "t00002"]
    assert source.complete


def test_an_idle_worker_never_hears_too_early_that_there_is_no_more(make_source):
    source = make_source(CHOSEN)
    handed = [source.next() for _ in range(4)]
    assert [work.key for work in handed] == ["t00000", "t00001", "t00002", "t00000-labels"]  # leads by short score
    assert source.next() is None


def test_an_idle_worker_gets_the_baseline_of_the_leader_at_equal_epochs(make_source):
    source = make_source(CHOSEN)
    for _ in range(3):
        source.next()
    source.report("t00000", RungResult(0, 1, 0.5, 1.0))
    source.report("t00000", RungResult(1, 2, 0.9, 1.0))
    source.report("t00001", RungResult(0, 1, 0.6, 1.0))
    source.report("t00002", RungResult(0, 1, math.nan, 1.0))
    assert source.next().key == "t00001-labels"


def test_one_that_overtakes_gets_its_baseline_too(make_source):
    source = make_source(CHOSEN[:2])
    for _ in range(2):
        source.next()
    source.report("t00000", RungResult(0, 1, 0.9, 1.0))
    assert source.next().key == "t00000-labels"
    assert source.next() is None
    for key, quality in (("t00000", 0.91), ("t00001", 0.95), ("t00000-labels", 0.4)):
        source.report(key, RungResult(1, 2, quality, 1.0))
        source.finish(key, Outcome("complete"))
    assert not source.complete
    assert source.next().key == "t00001-labels"


def test_one_that_fails_leaves_the_others(make_source):
    source = make_source(CHOSEN)
    failing = {"t00000": [RuntimeError("no luck")], "t00001": [0.5, 0.5], "t00002": [0.5, math.nan]}
    evaluator = run(source, Trains(failing))
    assert evaluator.started[-1] == "t00001-labels"
    assert states(source)["t00000"] == (None, True, "RuntimeError: no luck")
    assert states(source)["t00002"] == (None, True, "its logits became NaN or infinite")
    assert source.complete


def test_all_that_fail_end_it(make_source):
    source = make_source(CHOSEN)
    run(source, Trains({entry.key: [RuntimeError("no luck")] for entry in CHOSEN}))
    assert source.complete
    assert best_finalist(source.entries) is None


def test_a_baseline_that_fails_is_not_tried_for_ever(make_source):
    source = make_source(CHOSEN[:1])
    evaluator = run(source, Trains({"t00000-labels": [RuntimeError("no luck")]}))
    assert evaluator.started == ["t00000", "t00000-labels"]
    assert source.complete


def test_no_finalists_are_complete(make_source):
    assert make_source([]).complete


# Stopping and going on.


@pytest.mark.parametrize("at", [("t00000", 0), ("t00001", 0), ("t00001", 1), ("t00002", 1), ("t00000-labels", 0)])
def test_a_search_that_was_stopped_continues_from_its_journal_and_ends_the_same(make_source, tmp_path, at):
    qualities = {"t00000": [0.5, 0.9]}
    first = make_source(CHOSEN)
    run(first, Trains(qualities, on_rung=lambda key, rung: first.stop() if (key, rung) == at else None))
    assert first.stopping
    assert first.next() is None
    assert all(entry.cause is None for entry in first.entries)  # a stop is no failure
    done = {entry.key for entry in first.entries if entry.done}
    second = make_source(CHOSEN)
    evaluator = run(second, Trains(qualities))
    assert not done & set(evaluator.started)
    assert states(second) == {
        "t00000": (0.9, True, None),
        "t00001": (0.6, True, None),
        "t00002": (0.6, True, None),
        "t00000-labels": (0.6, False, None),
    }
    assert [len(entry.qualities) for entry in second.entries] == [2, 2, 2, 2]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_reports_before_a_death_are_repeated_and_noted_once(make_source):
    source = make_source(CHOSEN[:1], epochs=3)
    source.next()
    for rung, quality in ((0, 0.5), (1, 0.6), (1, 0.61), (0, 0.4), (2, 0.7)):
        assert source.report("t00000", RungResult(rung, rung + 1, quality, 1.0))
    source.finish("t00000", Outcome("complete"))
    assert source.entries[0].qualities == (0.5, 0.6, 0.7)


def test_what_is_finished_counts_and_what_would_no_longer_be_chosen_is_dropped(make_source):
    first = make_source(CHOSEN)
    first.next()
    first.report("t00000", RungResult(0, 1, 0.5, 1.0))
    first.report("t00000", RungResult(1, 2, 0.9, 1.0))
    first.finish("t00000", Outcome("complete"))
    first.next()
    first.report("t00001", RungResult(0, 1, 0.5, 1.0))
    other = record(7, 0.95, 40)
    second = make_source([other])
    assert [entry.key for entry in second.entries] == ["t00000", "t00007"]
    assert second.next().key == "t00007"


def test_qualities_of_another_training_do_not_count(make_source):
    first = make_source(CHOSEN[:1], epochs=2)
    run(first)
    assert make_source(CHOSEN[:1], epochs=2, count=5).complete  # how many there are is no part of a training
    for changed in (make_source(CHOSEN[:1], epochs=4), make_source(CHOSEN[:1], epochs=2, seed=1)):
        assert not changed.complete
        assert [entry.qualities for entry in changed.entries] == [()]
        assert changed.next().checkpoint != make_source(CHOSEN[:1]).next()


def test_the_journal_holds_all_and_every_event_follows_its_entry(make_source):
    events = []
    source = make_source(CHOSEN, events=events)
    run(source)
    assert list(make_source.book.metadata.finalists.values()) == source.entries
    assert [(entry.key, entry.done) for entry in events[:3]] == [("t00000", False), ("t00000", False), ("t00000", True)]
    assert len(events) == 4 * 3


def test_progress_counts_epochs_and_the_baseline_from_the_beginning(make_source):
    told = []
    source = make_source(CHOSEN, epochs=2)
    assert (source.progress().done, source.progress().total, source.progress().seconds_left) == (0, 8, None)
    run(source, Trains(on_rung=lambda key, rung: told.append(source.progress())))
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert {progress.total for progress in told} == {8}
    assert all(progress.seconds_left > 0 for progress in told[1:])
    end = source.progress()
    assert (end.done, end.total, end.seconds_left) == (8, 8, 0.0)


def test_the_time_left_is_by_each_trainings_own_pace_and_shared_by_workers():
    def entry(key, epochs, seconds, **more):
        return finalist(0, None, key=key, qualities=(0.5,) * epochs, seconds=seconds, **more)

    slow, fast, new = entry("a", 2, 20.0), entry("b", 4, 4.0), entry("c", 0, 0.0)
    training = FinalConfig(epochs=6, baseline=False)
    alone = final_progress([slow, fast, new], training, 1)
    assert (alone.done, alone.total) == (6, 18)
    assert alone.seconds_left == pytest.approx(4 * 10.0 + 2 * 1.0 + 6 * 5.5)
    assert final_progress([slow, fast, new, new], training, 2).seconds_left == pytest.approx(54.0)
    # One training is not shared.
    assert final_progress([slow, fast, new], training, 100).seconds_left == pytest.approx(40.0)
    failed = slow.model_copy(update={"cause": "its loss became NaN"})
    assert final_progress([failed, fast], training, 1).total == 8


# The uniform network.

BEST = {"t00000": [0.5, 0.9]}
UNIFORM = Finalist(
    key="uniform", trial=None, architecture={"width": 50}, costs={"flops": 99.0}, taught=True, score=None
)


def of_trial(number):
    return UNIFORM.model_copy(
        update={"key": f"t{number:05}", "trial": number, "architecture": CHOSEN[number].architecture.to_dict()}
    )


def test_the_uniform_network_is_trained_in_addition(make_source):
    source = make_source(CHOSEN, uniform_network=UNIFORM)
    assert source.progress().total == 2 * 5  # three finalists, the uniform network, a baseline
    works = {}
    while (work := source.next()) is not None:
        works[work.key] = work
    assert list(works) == ["t00000", "t00001", "t00002", "uniform", "t00000-labels"]
    uniform, other = works["uniform"], works["t00000"]
    assert (uniform.training, uniform.seed, uniform.rungs, uniform.teacher) == (
        other.training,
        other.seed,
        other.rungs,
        True,
    )
    assert uniform.architecture == Architecture(UNIFORM.architecture)
    assert (uniform.provenance.kind, uniform.provenance.trial, uniform.provenance.recipe) == (
        "final",
        "uniform",
        other.provenance.recipe,
    )


def test_a_uniform_network_that_is_chosen_anyway_is_trained_once(make_source):
    source = make_source(CHOSEN, uniform_network=of_trial(1))
    assert run(source, Trains(BEST)).started == ["t00000", "t00001", "t00002", "t00000-labels"]


def test_a_uniform_network_that_is_not_chosen_is_trained_under_its_trial(make_source):
    source = make_source(CHOSEN[:2], uniform_network=of_trial(2))
    assert run(source, Trains(BEST)).started == ["t00000", "t00001", "t00002", "t00000-labels"]
    assert source._journal.metadata.finalists["t00002"].trial == 2


def test_the_best_uniform_network_is_the_student_and_has_the_baseline(make_source):
    source = make_source(CHOSEN, uniform_network=UNIFORM)
    evaluator = run(source, Trains({"uniform": [0.5, 0.95]}))
    assert best_finalist(source.entries).key == "uniform"
    assert evaluator.started[-1] == "uniform-labels"
    assert source.complete


@pytest.mark.parametrize("at", [("t00002", 0), ("uniform", 0), ("uniform", 1), ("t00000-labels", 0)])
def test_a_stopped_search_continues_with_the_same_uniform_network(make_source, at):
    first = make_source(CHOSEN, uniform_network=UNIFORM)
    run(first, Trains(BEST, on_rung=lambda key, rung: first.stop() if (key, rung) == at else None))
    second = make_source(CHOSEN, uniform_network=UNIFORM)
    done = {entry.key for entry in first.entries if entry.done}
    evaluator = run(second, Trains(BEST))
    assert not done & set(evaluator.started)
    assert [len(entry.qualities) for entry in second.entries] == [2] * 5
    assert {entry.key for entry in second.entries} == {"t00000", "t00001", "t00002", "uniform", "t00000-labels"}


def test_its_training_continues_under_its_key_if_it_becomes_a_trial(make_source):
    first = make_source(CHOSEN, uniform_network=UNIFORM)
    run(first, Trains(BEST, on_rung=lambda key, rung: first.stop() if (key, rung) == ("uniform", 0) else None))
    tried = UNIFORM.model_copy(update={"key": "t00009", "trial": 9})
    second = make_source(CHOSEN, uniform_network=tried)
    run(second, Trains(BEST))
    assert {entry.key for entry in second.entries} == {"t00000", "t00001", "t00002", "uniform", "t00000-labels"}


def test_one_that_fails_leaves_the_finalists(make_source):
    source = make_source(CHOSEN, uniform_network=UNIFORM)
    run(source, Trains({**BEST, "uniform": [RuntimeError("no luck")]}))
    assert source.complete
    assert states(source)["uniform"] == (None, True, "RuntimeError: no luck")
    assert best_finalist(source.entries).key == "t00000"
