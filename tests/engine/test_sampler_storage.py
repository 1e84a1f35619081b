"""The trials that a sampler is shown of a long search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from nas_distill.config import SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.sampler_storage import SamplerStorage
from nas_distill.utils.seeds import numpy_rng


def study_of(storage: optuna.storages.BaseStorage) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(storage=storage, directions=["maximize", "minimize"], sampler=sampler)


def add(study: optuna.Study, quality: float, cost: float, *, excess: float = 0.0, done: bool = True) -> None:
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE if done else TrialState.RUNNING,
            values=[quality, cost] if done else None,
            params={"x": 1},
            distributions={"x": IntDistribution(1, 9)},
            constraints={"flops": excess},
        )
    )


def numbers(study: optuna.Study, **options: Any) -> list[int]:
    return [trial.number for trial in study.get_trials(deepcopy=False, **options)]


def test_all_are_listed_up_to_the_bound() -> None:
    study = study_of(SamplerStorage([True, False], kept=5))
    for number in range(5):
        add(study, number / 10, 1.0)
        assert numbers(study) == list(range(number + 1))
    add(study, 0.0, 2.0, done=False)
    assert numbers(study) == list(range(6))


def test_beyond_it_the_front_the_latest_and_the_unfinished_are() -> None:
    study = study_of(SamplerStorage([True, False], kept=6))
    add(study, 0.9, 1.0)  # dominates all
    add(study, 1.0, 0.5, excess=0.1)  # would, but is over the budget
    add(study, 0.0, 0.0, done=False)
    for _ in range(20):
        add(study, 0.5, 2.0)
    assert numbers(study) == [0, 2, 18, 19, 20, 21, 22]
    assert numbers(study, states=(TrialState.RUNNING,)) == [2]
    assert 2 not in numbers(study, states=(TrialState.COMPLETE,))
    assert len(study.trials) == 7
    assert study._storage.get_trial(5).number == 5  # hidden ones are still found by their id


def test_the_list_does_not_depend_on_the_order_in_which_trials_end() -> None:
    listed = []
    for seed in (None, 1, 2):
        storage = SamplerStorage([True, False], kept=8)
        study = study_of(storage)
        for _ in range(30):
            add(study, 0.0, 0.0, done=False)
        order = range(30) if seed is None else numpy_rng(seed, "order").permutation(30)
        for number in order:
            study.tell(int(number), [number % 7 / 10, 1.0 + number % 5], TrialState.COMPLETE)
        listed.append(numbers(study))
    assert listed[0] == listed[1] == listed[2]
    assert 8 <= len(listed[0]) < 30


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_long_search_is_resumed_the_same(
    make_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.setattr("nas_distill.engine.proposals.KEPT", 15)
    options = {"search": SearchConfig(trials=30, seeds=3, sampler=sampler), "budget": Budget.parse({"flops": "60k"})}
    whole = make_bench(**options)
    whole.run()
    lines = whole.folder.journal.read_bytes().splitlines(keepends=True)
    again = make_bench(**options)
    again.folder.create()
    again.folder.journal.write_bytes(b"".join(lines[: len(lines) * 3 // 4]))
    again.run()
    found = {record.index: record.architecture for record in again.records()}
    assert list(found.values()) == [record.architecture for record in whole.records()]


def test_tpe_reads_no_more_trials_than_the_bound(
    make_bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_distill.engine.proposals.KEPT", 15)
    shown: list[int] = []
    original = SamplerStorage.get_all_trials

    def counted(self: SamplerStorage, *arguments: Any, **options: Any) -> Any:
        found = original(self, *arguments, **options)
        shown.append(len(found))
        return found

    monkeypatch.setattr(SamplerStorage, "get_all_trials", counted)
    bench = make_bench(search=SearchConfig(trials=40, seeds=3, sampler="tpe"))
    controller = bench.run()
    front = len(controller._ledger.front)
    assert len(bench.records()) > 15 + front + 1
    assert max(shown) <= max(15, front + 15 // 2) + front + 1
