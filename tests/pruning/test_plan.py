import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.pruning.plan import Block, Group, Plan, Slot, Unpruned
from nas_distill.utils.errors import SpaceError
from tests.pruning.networks import NETWORKS, planned

PLAN = Plan(
    groups=(
        Group("stem", "channels", 4, (Slot("stem", "out", ((0,), (1,), (2,), (3,))),), None),
        Group("blocks.0.up", "neurons", 2, (Slot("blocks.0.up", "in", ((8, 9), (10, 11))),), 0),
        Group("blocks.0.qkv", "heads", 2, (Slot("blocks.0.qkv", "out", ((0, 2, 4), (1, 3, 5))),), 0),
    ),
    blocks=(Block("blocks.0", True, "stem", "stem", 1, 4, 4),),
    unpruned=(Unpruned("head", "it is odd"),),
)


def test_groups_are_shared_or_inside_of_blocks():
    assert [group.name for group in PLAN.shared] == ["stem"]
    assert [group.name for group in PLAN.inner(0)] == ["blocks.0.up", "blocks.0.qkv"]


def test_an_unknown_group_suggests_the_nearest_name():
    with pytest.raises(SpaceError, match=r"no group 'blocks\.0\.u'; did you mean 'blocks\.0\.up'\?"):
        PLAN.group("blocks.0.u")


def test_round_trip_by_json():
    assert Plan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN


@pytest.mark.parametrize("name", NETWORKS)
def test_plans_of_networks_round_trip(name):
    _, plan = planned(name)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@given(st.lists(st.lists(st.integers(0, 20), max_size=3).map(tuple), max_size=4).map(tuple))
def test_any_indices_round_trip(indices):
    group = Group("a", "channels", len(indices), (Slot("a", "out", indices),), None)
    plan = Plan((group,), (), ())
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_consecutive_units_are_stored_compactly():
    wide = Group("a", "channels", 512, (Slot("a", "in", tuple((2 * i, 2 * i + 1) for i in range(512))),), None)
    assert len(json.dumps(Plan((wide,), (), ()).to_dict())) < 200


@pytest.mark.parametrize("broken", [{}, {"groups": [{"name": "a"}], "blocks": [], "whole": []}, {"groups": 3}])
def test_values_that_are_not_a_plan_are_refused(broken):
    with pytest.raises(SpaceError, match="cannot be read"):
        Plan.from_dict(broken)
