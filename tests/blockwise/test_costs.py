from __future__ import annotations

import itertools
import json

import pytest

from nas_distill.blockwise.costs import ADDITIVE, CostTable, check_additive, count_costs
from nas_distill.blockwise.modules import make_modules
from nas_distill.costs.counting import count
from nas_distill.utils.errors import BudgetError


@pytest.mark.parametrize("name", ["residual", "mobile", "transformer", "turned", "grouped norms", "concatenating"])
def test_costs_of_parts_sum_to_those_of_the_network(make_case, data, name):
    case = make_case(name)
    found = case.alternatives()
    table = count_costs(found, case.inheritance, make_modules(found, case.inheritance, seed=0))
    groups = list(found.shared)
    checked = 0
    for place, sizes in enumerate(itertools.product(*found.shared.values())):
        widths = dict(zip(groups, sizes))
        chosen = []
        for block in range(len(found.plan.blocks)):
            fitting = [one for one in found.of_block(block) if found.widths(one).items() <= widths.items()]
            chosen.append(fitting[(place + block) % len(fitting)])
        architecture = case.cuts.encode(found.cut(chosen, widths))
        network = case.space.build(architecture, input_shape=data.input_shape, num_classes=data.num_classes)
        parts = [table.base, *(table.entries[one.key] for one in chosen)]
        parts += [part.costs[tuple(widths[group] for group in part.groups)] for part in table.parts]
        assert {cost: sum(part[cost] for part in parts) for cost in ADDITIVE} == count(
            network, data.input_shape, ADDITIVE
        )
        checked += 1
    assert checked >= 2
    assert CostTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_two_widths_that_meet_outside_of_the_blocks_have_joint_costs(make_case):
    case = make_case("mobile")
    found = case.alternatives()
    table = count_costs(found, case.inheritance, make_modules(found, case.inheritance, seed=0), ["params"])
    (joint,) = (part for part in table.parts if len(part.groups) == 2)
    assert "features.0" in joint.groups


def test_costs_that_are_not_additive_are_refused_with_a_remedy():
    with pytest.raises(
        BudgetError, match=r"'latency_ms' of a network is not a sum over its blocks.*check 'latency_ms'"
    ):
        check_additive(["flops", "latency_ms"])
    with pytest.raises(BudgetError, match="unknown cost 'flop'"):
        check_additive(["flop"])
