from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.first_candidates import ENUMERATED, choose_first_candidates, largest_within, uniformly_scaled
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.errors import BuildError, StorageError


def seeds(bench: Any, budget: dict[str, Any], count: int = 5, **options: Any) -> list[Architecture]:
    pricing = Pricing(options.get("costs", bench.costs), Budget.parse(budget))
    return choose_first_candidates(bench.space, pricing, count=count, by="flops", seed=0)


def test_the_smallest_comes_first_then_the_largest_then_between(bench: Any) -> None:
    chosen = seeds(bench, {})
    flops = [bench.costs(architecture)["flops"] for architecture in chosen]
    assert chosen[0] == bench.space.smallest()
    assert chosen[1] == bench.space.largest()
    assert len(set(chosen)) == 5
    assert all(flops[0] < cost < flops[1] for cost in flops[2:])
    assert seeds(bench, {}) == chosen


def test_with_a_budget_all_of_them_fit_and_the_largest_is_near_the_limit(bench: Any) -> None:
    flops = [bench.costs(architecture)["flops"] for architecture in seeds(bench, {"flops": "20k"})]
    assert max(flops) <= 20_000
    assert flops[1] == max(flops) >= 5_000
    assert flops[0] == min(flops)


def test_a_lower_limit_is_kept_too(bench: Any) -> None:
    for architecture in seeds(bench, {"flops": ["10k", "90k"]}):
        assert 10_000 <= bench.costs(architecture)["flops"] <= 90_000


def test_in_a_narrow_budget_there_are_as_many_as_were_asked_for(bench: Any) -> None:
    assert len(seeds(bench, {"flops": ["30k", "36k"]}, count=5)) == 5


def test_when_nothing_fits_the_smallest_come_back(bench: Any) -> None:
    assert seeds(bench, {"flops": 1})[0] == bench.space.smallest()


def test_none_are_asked_for_none_come(bench: Any) -> None:
    assert seeds(bench, {}, count=0) == []


def test_what_cannot_be_built_is_passed_over_unless_nothing_can(bench: Any) -> None:
    def picky(architecture: Architecture) -> dict[str, float]:
        if architecture.values["kernel"] == 3:
            raise BuildError("no kernel of 3")
        return bench.costs(architecture)

    def broken(architecture: Architecture) -> dict[str, float]:
        raise RuntimeError

    assert {architecture.values["kernel"] for architecture in seeds(bench, {}, costs=picky)} <= {5, 7}
    assert len(seeds(bench, {}, costs=broken)) == 5


def test_costs_are_computed_once_and_invalid_ones_refused(bench: Any) -> None:
    asked = []

    def costs(architecture: Architecture) -> dict[str, float]:
        asked.append(architecture)
        return {"flops": float("nan") if len(asked) > 1 else 3}

    price = Pricing(costs)
    assert price.largest("flops") is None
    first = bench.space.smallest()
    assert price(first) == price(first) == {"flops": 3.0}
    assert len(asked) == 1
    assert price.largest("flops") == 3
    with pytest.raises(BuildError, match="its flops is nan"):
        price(bench.space.largest())


def test_seeds_are_those_of_the_seed(make_bench: Callable[..., Any]) -> None:
    bench = make_bench()
    pricing = Pricing(bench.costs)
    drawn = {tuple(choose_first_candidates(bench.space, pricing, count=6, by="flops", seed=seed)) for seed in range(5)}
    assert len(drawn) > 1


def test_the_one_scaled_alike_is_as_large_as_the_budget_lets_it_be() -> None:
    space = SearchSpace.from_dict(
        {"act": ["relu", "silu"], "stages": {"repeat": 3, "of": {"width": [8, 16, 24, 32]}}}, builder="builtins:dict"
    )

    def costs(architecture: Architecture) -> dict[str, float]:
        return {"flops": float(sum(stage["width"] ** 2 for stage in architecture.to_dict()["stages"]))}

    def found(limit: float) -> list[int]:
        (architecture,) = uniformly_scaled(space, Pricing(costs, Budget.parse({"flops": limit})))
        assert architecture.to_dict()["act"] == "silu"
        return [stage["width"] for stage in architecture.to_dict()["stages"]]

    # A lower limit does not hide it: what is too small is no reason to look for less.
    narrow = Pricing(costs, Budget.parse({"flops": {"min": 600, "max": 3 * 16**2}}))
    (alike,) = uniformly_scaled(space, narrow)
    assert [stage["width"] for stage in alike.to_dict()["stages"]] == [16, 16, 16]
    assert alike in choose_first_candidates(space, narrow, count=3, by="flops", seed=0)
    assert uniformly_scaled(space, Pricing(costs, Budget.parse({"flops": {"min": 769, "max": 770}}))) == []

    assert found(3 * 16**2) == [16, 16, 16]
    assert found(3 * 24**2 - 1) == [24, 24, 16]
    assert found(10**9) == [32, 32, 32]
    assert uniformly_scaled(space, Pricing(costs, Budget.parse({"flops": 10}))) == []
    assert uniformly_scaled(space, Pricing(costs)) == []


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 0.9), slack=st.floats(1.0, 1.1))
def test_the_largest_first_candidate_is_the_largest_that_fits(seed: int, share: float, slack: float) -> None:
    rng = np.random.default_rng(seed)
    widths = [8 * int(width) for width in np.unique(rng.integers(1, 9, 4))]
    kernels = [3, 5][: int(rng.integers(1, 3))]
    space = SearchSpace.from_dict(
        {
            "act": ["relu", "silu"],
            "depth": list(range(1, int(rng.integers(2, 5)))),
            "stages": {"repeat": "depth", "of": {"width": widths, "kernel": kernels}},
        },
        builder="builtins:dict",
    )

    def costs(architecture: Architecture) -> dict[str, float]:
        flops, before = 0, 3
        for stage in architecture.to_dict()["stages"]:
            flops += before * stage["width"] * stage["kernel"] ** 2
            before = stage["width"]
        return {"flops": float(flops)}

    every = sorted(costs(architecture)["flops"] for architecture in space.every())
    limit = every[int(share * len(every))] * slack
    best = max(cost for cost in every if cost <= limit)
    price = Pricing(costs, Budget.parse({"flops": limit}))
    chosen = choose_first_candidates(space, price, count=6, by="flops", seed=seed)
    largest = max(costs(architecture)["flops"] for architecture in chosen)
    assert largest <= limit
    assert largest == best if len(every) <= ENUMERATED else largest >= 0.9 * best
    assert len(set(chosen)) == len(chosen)
    assert len(price._known) <= ENUMERATED + 300  # costs are slow to come by


def test_whatever_a_builder_raises_is_one_kind_of_error_and_a_full_disk_is_none_of_them() -> None:
    space = SearchSpace.from_dict({"width": [1, 2, 4]}, builder="builtins:dict")

    def costs(architecture: Architecture) -> dict[str, float]:
        if architecture.values["width"] == 1:
            raise KeyError("lost")
        raise StorageError("the disk is full")

    pricing = Pricing(costs)
    with pytest.raises(BuildError, match="KeyError: 'lost'"):
        pricing(space.smallest())
    assert pricing.known(space.smallest()) is None
    for ask in (pricing, pricing.known):
        with pytest.raises(StorageError):
            ask(space.largest())
    with pytest.raises(StorageError):
        largest_within(space, pricing, [space.smallest()], by="flops", seed=0)
