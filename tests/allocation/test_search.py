from __future__ import annotations

from dataclasses import replace

import pytest

from nas_distill.allocation.assembler import AllocatedCandidates
from nas_distill.allocation.search import LEVELS, AllocationSearch, JudgedCut, depth_class, depth_classes, diverse
from nas_distill.pruning.plan import Cut
from tests.allocation.conftest import make_case


def distance(wanted):
    """Return a judge for which one cut is best."""

    def judge(cuts, samples):
        return [
            sum(abs(cut.widths.get(name, 0) - width) for name, width in wanted.widths.items())
            + 3 * sum(one != other for one, other in zip(cut.blocks, wanted.blocks))
            for cut in cuts
        ]

    return judge


def searched(case, judge, *, candidates=160, seed=0, filler=None):
    moves = case.moves(flops=0.4)
    search = AllocationSearch(filler or moves.filler, judge, case.costs, candidates=candidates, samples=8, seed=seed)
    return search.run()


@pytest.fixture(scope="module")
def wanted(residual):
    """A cut at the limit far from uniform narrowing."""
    moves = residual.moves(flops=0.4)
    names = list(moves.uniform().widths)
    profile = {name: 0.3 if place % 2 else 1.0 for place, name in enumerate(names)}
    blocks = list(residual.space.unpruned.blocks)
    droppable = next(index for index, choices in enumerate(residual.space.choices) if "drop" in choices)
    blocks[droppable] = "drop"
    return moves.filler.scaled(tuple(blocks), profile)


def test_the_search_finds_a_better_cut_than_uniform_narrowing(residual, wanted):
    uniform = residual.moves(flops=0.4).uniform()
    judge = distance(wanted)
    levels = searched(residual, judge)
    assert len(levels) == len(LEVELS)
    best = levels[0][0]
    assert best.divergence < 0.5 * judge([uniform], 8)[0]
    assert [one.divergence for one in levels[0]] == sorted(one.divergence for one in levels[0])
    full = residual.costs(residual.space.unpruned)["flops"]
    for (share, _), level in zip(LEVELS, levels):
        for one in level:
            residual.space.check(one.cut)
            assert residual.costs(one.cut)["flops"] <= share * 0.4 * full * (1 + 1e-9)


@pytest.mark.slow
def test_a_transformer_diverges_less_than_narrowed_uniformly():
    """Heads, neurons and the width of its tokens are cut, and blocks dropped, within the limit."""
    case = make_case("transformer")
    judge = case.judge()

    def judged(cuts, samples):
        return [judge.divergence(cut, samples) for cut in cuts]

    best = searched(case, judged, candidates=40)[0][0]
    (uniform,) = judged([case.moves(flops=0.4).uniform()], 48)
    assert judge.divergence(best.cut, 48) < uniform
    assert case.costs(best.cut)["flops"] <= 0.4 * case.full["flops"] * (1 + 1e-9)


def test_results_depend_on_the_seed_only(residual, wanted):
    judge = distance(wanted)
    first = searched(residual, judge, candidates=60)
    assert searched(residual, judge, candidates=60) == first
    assert searched(residual, judge, candidates=60, seed=1) != first


def test_no_more_is_judged_than_asked(residual, wanted):
    judged = []

    def judge(cuts, samples):
        judged.extend((cut, samples) for cut in cuts)
        return distance(wanted)(cuts, samples)

    searched(residual, judge, candidates=50)
    first = [cut for cut, samples in judged if samples == 8]
    assert len(first) <= 50 + 8
    assert len(first) > 30


def test_a_cost_that_is_not_exactly_predicted_is_counted(residual, wanted):
    """Predictions that are 20 % too low must not lead to cuts above the limit."""
    moves = residual.moves(flops=0.4)
    costs = moves.filler.costs
    wrong = replace(
        costs, coefficients={"flops": 0.8 * costs.coefficients["flops"]}, errors={**costs.errors, "flops": 0.2}
    )
    levels = searched(residual, distance(wanted), candidates=60, filler=replace(moves.filler, costs=wrong))
    high = moves.filler.limits["flops"]
    shares = [residual.costs(one.cut)["flops"] / high for one in levels[0]]
    assert shares
    assert max(shares) <= 1
    assert max(shares) > 0.9


def test_candidates_that_cannot_be_counted_are_left_out(residual, wanted):
    moves = residual.moves(flops=0.4)
    inexact = replace(moves.filler.costs, errors={**moves.filler.costs.errors, "flops": 0.2})
    search = AllocationSearch(
        replace(moves.filler, costs=inexact), distance(wanted), lambda cut: None, candidates=16, samples=8, seed=0
    )
    assert search.run() == [[] for _ in LEVELS]


def widths(residual, *shares):
    groups = residual.plan.groups
    return Cut({group.name: max(1, int(share * group.size)) for group, share in zip(groups, shares)}, ("whole",))


def test_diverse_cuts_differ(residual):
    near = [JudgedCut(widths(residual, *[0.5] * 9, share), index) for index, share in enumerate((0.5, 0.51, 0.9))]
    far = JudgedCut(widths(residual, *[1.0] * 10), 10.0)
    assert diverse([*near, far], 2) == [near[0].cut, far.cut]
    assert len(diverse([*near, far], 10)) == 4
    assert diverse([], 3) == []


def test_the_best_of_each_depth_survive_and_come_first(residual):
    moves = residual.moves(flops=0.4)
    depths = [cut.blocks.count("drop") for cut in moves.starts()]
    assert len(set(depths)) > 2

    def judge(cuts, samples):
        """The shallower, the better, then the narrower the first group."""
        return [10 - cut.blocks.count("drop") + next(iter(cut.widths.values())) / 100 for cut in cuts]

    (level, *_) = searched(residual, judge)
    classes = [depth_class(one.cut) for one in level]
    assert set(classes) == set(range(depth_classes(residual.space)))
    assert max(classes.count(one) for one in classes) <= 24 // depth_classes(residual.space)
    first = [depth_class(cut) for cut in diverse(level, len(set(classes)))]
    assert len(set(first)) == len(set(classes))
    assert diverse(level, 1) == [level[0].cut]


def test_candidates_are_proposed_once_and_then_no_more(residual, wanted):
    levels = searched(residual, distance(wanted), candidates=60)
    source = AllocatedCandidates(residual.space, levels, count=5)
    assert source.exclusive
    seen: set[str] = set()
    while (found := source.propose([], seen)) is not None:
        assert found.hash not in seen
        seen.add(found.hash)
    assert len(seen) == 5
    best = residual.space.encode(levels[0][0].cut)
    assert source.propose([], set()) == best
