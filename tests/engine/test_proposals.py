from typing import Any

import numpy as np
from optuna.trial import TrialState

from nas_distill.config import SamplerConfig
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.proposals import Proposal, Proposals
from nas_distill.engine.samplers import find_sampler


def proposals(bench: Any, sampler: str = "tpe", seed: int = 0) -> Proposals:
    return Proposals(
        bench.space,
        objectives=Objectives(("flops",)),
        pricing=Pricing(bench.costs),
        sampler=find_sampler(SamplerConfig(name=sampler)),
        seed=seed,
        trials=16,
    )


def settle(found: Proposals, bench: Any, proposal: Proposal, index: int) -> None:
    costs = bench.costs(proposal.architecture)
    quality = bench.evaluator.quality(proposal.architecture, 1.0)
    found.tell(index, TrialState.COMPLETE, [quality, costs["flops"]], constraints={"flops": 0.0})


def test_an_open_proposal_does_not_count_as_bad_with_the_sampler(bench: Any) -> None:
    found = proposals(bench)
    found.ask()
    assert found.is_open(0)
    found.tell(0, TrialState.FAIL)
    assert not found.is_open(0)
    assert len(found) == 1


def test_nsga2_breeds_from_inserted_and_from_stopped_candidates(bench: Any) -> None:
    found = proposals(bench, "nsga2")  # populations of four
    for index, architecture in enumerate([bench.space.smallest(), bench.space.largest()]):
        assert found.insert(architecture, "first_candidate").state["NSGAIISampler:generation"] == 0
        found.tell(index, TrialState.PRUNED, [0.5, 100.0])
    for index in range(2, 4):
        settle(found, bench, found.ask(), index)
    assert found.ask().state["NSGAIISampler:generation"] == 1


def test_nsga2_counts_what_is_over_budget_and_no_repeats(bench: Any) -> None:
    found = proposals(bench, "nsga2")  # populations of four
    for index in range(3):
        found.insert(bench.space.sample(np.random.default_rng(index)), "first_candidate")
        found.tell(index, TrialState.PRUNED, [0.0, 100.0], constraints={"flops": 0.5})
    repeated = found.ask()
    assert repeated.state["NSGAIISampler:generation"] == 0
    found.tell(3, TrialState.PRUNED, [0.0, 100.0], constraints={"flops": 0.5}, repeats=True)
    assert found.ask().state["NSGAIISampler:generation"] == 0
    found.tell(4, TrialState.COMPLETE, [0.5, 10.0], constraints={"flops": 0.0})
    assert found.ask().state["NSGAIISampler:generation"] == 1


def test_unseen_is_what_was_not_seen(bench: Any) -> None:
    found = proposals(bench)
    first = found.unseen(set(), 100)
    assert first is not None
    assert found.unseen(set(), 100) == first
    second = found.unseen({first.hash}, 100)
    assert second is not None
    assert second != first
    assert found.unseen({first.hash}, 1) is None
