"""Filled cuts and moves: always in the space, within the limits, and with no room for one more step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.pruning.plan import DROPPED, UNPRUNED
from tests.allocation.conftest import make_case

CASES = {name: make_case(name) for name in ("residual", "mobile", "transformer", "sequential")}
CASES["numbered"] = make_case("residual", numbered=True)
CASES["replaced"] = make_case("residual", replaced=True)


def fits(case, cut, **shares):
    """Say whether a cut is within shares of the teacher's costs, by predictions, which test_polynomial holds exact."""
    found = case.polynomial.predict(cut)
    return all(found[name] <= share * case.full[name] * (1 + 1e-9) for name, share in shares.items())


def spends(case, cut, **shares):
    """Say whether no width can be raised by a step."""
    for name, width in cut.widths.items():
        wider = [other for other in case.space.widths[name] if other > width]
        if wider and fits(case, case.space.with_width(cut, name, wider[0]), **shares):
            return False
    return True


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None)
@given(share=st.floats(0.15, 0.95), seed=st.integers(0, 1000))
def test_neighbours_are_in_the_space_and_spend_the_budget(name, share, seed):
    case = CASES[name]
    moves = case.moves(flops=share)
    rng = np.random.default_rng(seed)
    cut = moves.uniform()
    if cut is None:
        return
    for _ in range(6):
        found = moves.neighbour(cut, rng)
        if found is None:
            continue
        case.space.check(found)
        assert fits(case, found, flops=share)
        assert spends(case, found, flops=share)
        cut = found


@pytest.mark.parametrize("name", CASES)
def test_starts_are_distinct_depths_at_the_limit(name):
    case = CASES[name]
    found = list(case.moves(flops=0.5).starts())
    assert found[0] == case.moves(flops=0.5).uniform()
    assert all(block != DROPPED for block in found[0].blocks)
    for cut in found:
        case.space.check(cut)
        assert fits(case, cut, flops=0.5)
    droppable = any(DROPPED in choices for choices in case.space.choices)
    assert (len({cut.blocks for cut in found}) > 1) == droppable


def test_several_limits_hold_together(residual):
    moves = residual.moves(flops=0.5, params=0.2)
    cut = moves.uniform()
    assert fits(residual, cut, flops=0.5, params=0.2)
    assert spends(residual, cut, flops=0.5, params=0.2)
    rng = np.random.default_rng(0)
    found = [each for _ in range(20) if (each := moves.neighbour(cut, rng)) is not None]
    assert found
    assert all(fits(residual, each, flops=0.5, params=0.2) for each in found)


def test_uniform_narrowing_has_nearly_equal_shares(residual):
    cut = residual.moves(flops=0.4).uniform()
    shares = [width / residual.plan.group(name).size for name, width in cut.widths.items()]
    assert max(shares) - min(shares) <= 0.25
    assert set(cut.blocks) == {UNPRUNED}


def test_a_limit_below_the_smallest_cut_has_no_cut(residual):
    moves = residual.moves(flops=1e-6)
    assert moves.uniform() is None
    assert not list(moves.starts())


def test_what_a_move_fixed_is_kept_where_it_fits(residual):
    moves = residual.moves(flops=0.4)
    cut = moves.uniform()
    name = next(iter(cut.widths))
    wider = residual.space.with_width(cut, name, residual.space.widths[name][-1])
    found = moves.filler.filled(wider, moves.profile(cut), fixed=[name])
    assert found.widths[name] == residual.space.widths[name][-1]
    assert fits(residual, found, flops=0.4)
