from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from nas_distill.config import SearchConfig
from nas_distill.cost.budget import Budget
from nas_distill.engine.proposals import Proposal, Proposals


def proposals(bench: Any, sampler: str = "tpe", seed: int = 0) -> Proposals:
    directions = ["maximize", "minimize"]
    return Proposals(bench.space, directions=directions, sampler=sampler, seed=seed, trials=16)


def settle(found: Proposals, bench: Any, proposal: Proposal, index: int) -> None:
    costs = bench.costs(proposal.architecture)
    quality = bench.evaluator.quality(proposal.architecture, 1.0)
    found.settle(index, TrialState.COMPLETE, [quality, costs["flops"]], constraints={"flops": 0.0})


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_proposal_depends_on_seed_index_and_outcomes_alone(bench: Any, sampler: str) -> None:
    """The one with the same past proposes the same, at whatever point its past was handed to it."""
    told: list[Proposal] = []
    first = proposals(bench, sampler)
    for index in range(24):
        proposal = first.insert(bench.space.smallest(), "seed") if index == 0 else first.ask()
        settle(first, bench, proposal, index)
        told.append(proposal)
    for cut in (1, 5, 11, 17, 23):
        second = proposals(bench, sampler)
        for index, proposal in enumerate(told[:cut]):
            second.restore(proposal)
            settle(second, bench, proposal, index)
        second.restored()
        assert second.ask() == told[cut]
    other = proposals(bench, sampler, seed=1)
    assert other.ask().architecture != told[1].architecture


def test_an_open_proposal_is_bad_news_to_nobody_for_ever(bench: Any) -> None:
    found = proposals(bench)
    found.ask()
    assert found.is_open(0)
    found.settle(0, TrialState.FAIL)
    assert not found.is_open(0)
    assert len(found) == 1


def test_nsga2_breeds_from_inserted_and_from_stopped_candidates(bench: Any) -> None:
    found = proposals(bench, "nsga2")  # populations of four
    for index, architecture in enumerate([bench.space.smallest(), bench.space.largest()]):
        assert found.insert(architecture, "seed").state == {"NSGAIISampler:generation": 0}
        found.settle(index, TrialState.PRUNED, [0.5, 100.0])
    for index in range(2, 4):
        settle(found, bench, found.ask(), index)
    assert found.ask().state == {"NSGAIISampler:generation": 1}


def test_nsga2_counts_what_is_over_budget_and_no_repeats(bench: Any) -> None:
    found = proposals(bench, "nsga2")  # populations of four
    for index in range(3):
        found.insert(bench.space.sample(np.random.default_rng(index)), "seed")
        found.settle(index, TrialState.PRUNED, [0.0, 100.0], constraints={"flops": 0.5})
    repeated = found.ask()
    assert repeated.state == {"NSGAIISampler:generation": 0}
    found.settle(3, TrialState.PRUNED, [0.0, 100.0], constraints={"flops": 0.5}, repeats=True)
    assert found.ask().state == {"NSGAIISampler:generation": 0}
    found.settle(4, TrialState.COMPLETE, [0.5, 10.0], constraints={"flops": 0.0})
    assert found.ask().state == {"NSGAIISampler:generation": 1}


def test_nsga2_learns_what_is_over_budget(make_bench: Callable[..., Any]) -> None:
    def over_budget(sampler: str) -> int:
        found = []
        for seed in range(2):
            bench = make_bench(
                search=SearchConfig(trials=24, seeds=2, sampler=sampler),
                budget=Budget.parse({"flops": "10k"}),
                seed=seed,
            )
            bench.run()
            found += [record for record in bench.records() if record.state == "over_budget"]
        assert all(record.values is None for record in found)  # in the journal they have none
        return len(found)

    assert over_budget("nsga2") < over_budget("random") / 2


def test_unseen_is_what_was_not_seen(bench: Any) -> None:
    found = proposals(bench)
    first = found.unseen(set(), 100)
    assert first is not None
    assert found.unseen(set(), 100) == first
    second = found.unseen({first.hash}, 100)
    assert second is not None
    assert second != first
    assert found.unseen({first.hash}, 1) is None
