from typing import Any

import pytest
from optuna.trial import TrialState

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


def test_unseen_is_what_was_not_seen(bench: Any) -> None:
    found = proposals(bench)
    first = found.unseen(set(), 100)
    assert first is not None
    assert found.unseen(set(), 100) == first
    second = found.unseen({first.hash}, 100)
    assert second is not None
    assert second != first
    assert found.unseen({first.hash}, 1) is None
