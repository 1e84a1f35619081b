from __future__ import annotations

import numpy as np
import pytest

from nas_distill.allocation.polynomial import CostPolynomial, random_cut
from nas_distill.utils.errors import BuildError
from tests.allocation.conftest import COSTS, make_case
from tests.pruning.networks import NETWORKS


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"recurrent"}))
def test_costs_of_cuts_are_exact(name):
    case = make_case(name, replaced=name == "residual")
    rng = np.random.default_rng(7)
    for _ in range(6):
        cut = random_cut(case.space, rng)
        case.space.check(cut)
        counted = case.costs(cut)
        assert case.polynomial.predict(cut) == pytest.approx(dict(counted), rel=1e-6)
    assert all(case.polynomial.is_exact(cost) for cost in COSTS)


def test_costs_are_exact_where_blocks_are_dropped_in_an_order():
    case = make_case("residual", numbered=True)
    rng = np.random.default_rng(3)
    cuts = [random_cut(case.space, rng) for _ in range(8)]
    assert len({cut.blocks for cut in cuts}) > 1
    for cut in cuts:
        assert case.polynomial.predict(cut) == pytest.approx(dict(case.costs(cut)), rel=1e-6)


def test_a_cost_of_another_form_is_not_called_exact(residual):
    def steps(cut):
        return {"steps": float(sum(-(-width // 5) for width in cut.widths.values()))}

    found = CostPolynomial.fit(residual.space, steps, ["steps"])
    assert not found.is_exact("steps")
    assert 0 < found.errors["steps"] < 1


def test_cuts_that_cannot_be_counted_are_left_out_until_there_are_too_many(residual):
    def sometimes(cut):
        if sum(cut.widths.values()) % 3 == 0:
            raise BuildError("no")
        return residual.costs(cut)

    assert CostPolynomial.fit(residual.space, sometimes, ["flops"]).is_exact("flops")

    def never(cut):
        raise BuildError("never")

    with pytest.raises(BuildError, match="never"):
        CostPolynomial.fit(residual.space, never, ["flops"])
