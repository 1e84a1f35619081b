from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from nas_distill.blockwise.assembler import assemblies, block_scores, front
from nas_distill.blockwise.library import build_library
from nas_distill.costs.budget import Limit
from nas_distill.costs.counting import count
from nas_distill.utils.errors import BudgetError, SpaceError

COSTS = ("flops", "params", "weight_bytes")


def ends_of(found):
    return {group for block in found.plan.blocks for group in (block.input, block.output)}


def everything(case, library, score="relative_l1", weights=None):
    """Yield all architectures of the library's alternatives with score and costs, by exhaustive search."""
    found, costs = library.alternatives, library.costs
    read = found.read_outside()
    free = {group: widths for group, widths in read.items() if group not in ends_of(found)}
    weights = weights or [1.0] * (len(found.plan.blocks) + len(read))
    for chosen in itertools.product(*(found.of_block(block) for block in range(len(found.plan.blocks)))):
        widths: dict[str, int] = {}
        if not all(widths.setdefault(g, w) == w for one in chosen for g, w in found.widths(one).items()):
            continue
        for other in itertools.product(*free.values()):
            all_widths = widths | dict(zip(free, other))
            try:
                cut = found.cut(chosen, all_widths)
                architecture = case.space.validate(case.cuts.encode(cut).to_dict())
            except SpaceError:
                continue
            if found.of_cut(cut) != list(chosen):
                continue  # with a depth order, some blocks must be dropped before others
            local = [getattr(library.scores[one.key], score) for one in chosen]
            local += [getattr(library.width_scores[group, all_widths[group]], score) for group in read]
            total = sum(weight * one for weight, one in zip(weights, local, strict=True))
            parts = [costs.base, *(costs.entries[one.key] for one in chosen)]
            parts += [part.costs[tuple(all_widths[group] for group in part.groups)] for part in costs.parts]
            yield architecture, total, {name: sum(part[name] for part in parts) for name in COSTS}


def counted(case, cut):
    """Return the counted costs of an architecture's network."""
    network = case.space.build(case.cuts.encode(cut), input_shape=(1, 8, 8), num_classes=10)
    return count(network, (1, 8, 8), COSTS)


@pytest.fixture(scope="module")
def tried(library, residual):
    return list(everything(residual, library))


def test_the_first_assembly_is_optimal_and_its_costs_are_exact(library, residual, tried):
    flops = sorted(costs["flops"] for _, _, costs in tried)
    for high in (flops[0], flops[len(flops) // 3], flops[len(flops) // 2]):
        found = assemblies(library, {"flops": Limit(None, high)}, count=1)[0]
        assert found.score == pytest.approx(min(score for _, score, costs in tried if costs["flops"] <= high))
        assert dict(found.costs) == counted(residual, found.cut)
        assert found.costs["flops"] <= high
        assert found.block_scores == block_scores(library, found.cut, "relative_l1")
        assert sum(found.block_scores) == pytest.approx(found.score)
        assert [key.split("-")[0] for key in found.alternatives] == ["block0", "block1", "block2"]


@pytest.mark.parametrize("score", ["nsr", "relative_l1"])
def test_assemblies_minimise_the_given_score_and_weights(library, residual, score):
    weights = [0.0, 3.0, 1.0, 2.0]
    tried = list(everything(residual, library, score, weights))
    middle = sorted(costs["params"] for _, _, costs in tried)[len(tried) // 2]
    (found,) = assemblies(library, {"params": Limit(None, middle)}, count=1, score=score, weights=weights)
    assert found.score == pytest.approx(min(value for _, value, costs in tried if costs["params"] <= middle))


def test_assemblies_are_unlike_and_all_within_the_limits(library, residual):
    limits = {"flops": Limit(None, 40_000), "weight_bytes": Limit(2_000, 12_000)}
    found = assemblies(library, limits, count=6, overlap=0.4)
    assert len(found) > 2
    assert [one.score for one in found] == sorted(one.score for one in found)
    for one, other in itertools.combinations(found, 2):
        assert sum(a == b for a, b in zip(one.alternatives, other.alternatives)) <= 1
    assert all(limit.excess(one.costs[name]) == 0 for one in found for name, limit in limits.items())


def test_the_front_rises_in_cost_and_improves_in_score(library, tried):
    found = front(library, {}, "flops", points=6)
    costs, scores = [one.costs["flops"] for one in found], [one.score for one in found]
    assert costs == sorted(set(costs))
    assert scores == sorted(set(scores), reverse=True)
    assert costs[0] == min(cost["flops"] for _, _, cost in tried)
    assert scores[-1] == 0  # the teacher itself


@pytest.mark.parametrize("name", ["mobile", "transformer"])
@pytest.mark.parametrize("numbered", [False, True])
def test_free_widths_and_depth_orders_are_assembled(make_case, make_training, data, tmp_path, name, numbered):
    case = make_case(name, numbered=numbered)
    settings = make_training(epochs=0).settings.model_copy(
        update={"epochs": 0.5, "widths": (0.5,), "trunk": (0.5, 1.0)}
    )
    library = build_library(case.inheritance, data, settings=settings, seed=0, folder=tmp_path)
    tried = list(everything(case, library))
    middle = sorted(costs["flops"] for _, _, costs in tried)[len(tried) // 2]
    (found,) = assemblies(library, {"flops": Limit(None, middle)}, count=1)
    assert found.score == pytest.approx(min(score for _, score, costs in tried if costs["flops"] <= middle))
    assert dict(found.costs) == counted(case, found.cut)


def test_infeasible_limits_and_costs_that_are_not_additive_are_refused(library):
    with pytest.raises(BudgetError, match=r"'params' \(at most 100\) binds; the least that any assembly has"):
        assemblies(library, {"flops": Limit(None, 1e9), "params": Limit(None, 100)})
    with pytest.raises(BudgetError, match="'latency_ms' of a network is not a sum"):
        assemblies(library, {"latency_ms": Limit(None, 1)})


def test_architectures_outside_of_the_library_have_no_block_scores(library, residual):
    cut = residual.cuts.unpruned
    assert block_scores(library, cut, "relative_l1") == (0.0, 0.0, 0.0, 0.0)
    assert (
        block_scores(library, replace(cut, start="random"), "relative_l1") is None
    )  # it does not start from the library's blocks
    (group,) = residual.plan.inner(2)
    assert block_scores(library, residual.cuts.with_width(cut, group.name, 8), "relative_l1") is None
