"""Candidates whose builders do what they should not."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest
from torch import nn

from nas_distill.engine import candidates as module
from nas_distill.engine.candidates import Candidates
from nas_distill.engine.child import Child
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.utils.errors import BuildError


def build(*, act: str, place: str, input_shape: Any, num_classes: int) -> nn.Module:
    def misbehave() -> None:
        if act == "exit":
            os._exit(7)
        if act == "interrupt":
            raise KeyboardInterrupt
        if act == "patch":
            nn.Flatten.forward = lambda *_: sys.exit(3)
        if act == "loop":
            while True:
                time.sleep(0.01)

    class Network(nn.Sequential):
        def forward(self, x: Any) -> Any:
            misbehave()
            return super().forward(x)

    if place == "build":
        misbehave()
    return Network(nn.Flatten(), nn.Linear(4, num_classes))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def process(network: nn.Module) -> int:
    return os.getpid()


def run(network: nn.Module) -> int:
    import torch

    network(torch.zeros(1, 1, 2, 2))
    return parameters(network)


@pytest.fixture
def candidates() -> Any:
    space = SearchSpace.from_dict(
        {"act": ["nothing", "exit", "interrupt", "loop", "patch"], "place": ["build", "forward"]}, builder=build
    )
    with Candidates(NetworkBuilder(space, (1, 2, 2), 3), seed=0, seconds=2) as made:
        yield made


def architecture(act: str, place: str = "build") -> Architecture:
    return Architecture({"act": act, "place": place})


@pytest.mark.parametrize("place", ["build", "forward"])
@pytest.mark.parametrize(
    ("act", "cause"),
    [("exit", "exit code 7"), ("interrupt", "KeyboardInterrupt"), ("loop", "longer than 2 seconds")],
)
def test_whatever_a_builder_does_is_that_candidates_failure(candidates, act, place, cause):
    with pytest.raises(BuildError, match=cause):
        candidates.apply(architecture(act, place), run)
    assert candidates.apply(architecture("nothing"), run) == 15


@pytest.mark.parametrize("patch", [parameters, run], ids=["unnoticed", "noticed"])
def test_a_builder_that_patches_torch_does_not_fail_the_next_candidate(candidates, patch):
    if patch is run:
        with pytest.raises(BuildError, match="SystemExit: 3"):
            candidates.apply(architecture("patch"), patch)
    else:
        assert candidates.apply(architecture("patch"), patch) == 15
    assert candidates.apply(architecture("nothing"), run) == 15


def test_an_error_of_a_candidates_own_is_raised_after_a_try_in_a_new_process(candidates):
    pid = candidates.apply(architecture("nothing"), process)
    with pytest.raises(BuildError, match="KeyboardInterrupt"):
        candidates.apply(architecture("interrupt"), process)
    assert candidates.apply(architecture("nothing"), process) != pid


def test_costs_that_cannot_be_had_are_asked_once():
    asked = []

    def costs(architecture: Architecture) -> dict[str, float]:
        asked.append(architecture)
        raise ValueError("no network")

    pricing = module.Pricing(costs)
    for _ in range(2):
        with pytest.raises(BuildError, match="no network"):
            pricing(architecture("nothing"))
    assert len(asked) == 1


def test_what_was_lost_is_not_tried_again(candidates, monkeypatch):
    with pytest.raises(BuildError):
        candidates.apply(architecture("loop"), run)
    monkeypatch.setattr(Child, "call", lambda *_, **__: pytest.fail("it was tried again"))
    with pytest.raises(BuildError, match="longer than 2 seconds"):
        candidates.apply(architecture("loop"), run)


def test_the_network_is_the_same_whatever_was_built_before(candidates):
    first = candidates.apply(architecture("nothing"), state)
    candidates.apply(architecture("nothing", "forward"), run)
    assert candidates.apply(architecture("nothing"), state) == first


def state(network: nn.Module) -> list[float]:
    return [float(parameter.sum()) for parameter in network.parameters()]


def test_a_process_that_died_of_an_earlier_candidate_is_not_the_next_ones_fault(candidates):
    pid = candidates.apply(architecture("nothing"), lambda network: os.getpid())
    os.kill(pid, 9)
    assert candidates.apply(architecture("nothing"), run) == 15


def test_there_is_a_limit_where_none_is_given(monkeypatch):
    monkeypatch.setattr(module, "LEAST_SECONDS", 0.5)
    space = SearchSpace.from_dict({"act": ["nothing", "loop"], "place": ["build"]}, builder=build)
    made = Candidates(NetworkBuilder(space, (1, 2, 2), 3), seed=0)
    with made, pytest.raises(BuildError, match="longer than"):
        made.apply(architecture("loop"), run)
