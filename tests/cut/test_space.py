from dataclasses import replace

import numpy as np
import pytest

from nas_distill.common.errors import SpaceError
from nas_distill.cut.plan import Block, Group, Plan, Slot, Whole
from nas_distill.cut.space import WIDTHS, cut_of, cut_space, multiple_for
from nas_distill.cut.surgery import Cut
from tests.cut.networks import planned

BUILD = "nas_distill.cut.build:build"


def group(name, size, block=None, kind="channels", run=1):
    places = tuple(tuple(range(unit * run, unit * run + run)) for unit in range(size))
    return Group(name, kind, size, (Slot(name, "out", places),), block)


PLAN = Plan(
    groups=(group("stem", 32), group("inner", 20, 0), group("heads", 4, 1, "heads"), group("last", 8, run=4)),
    blocks=(
        Block("blocks.0", True, "stem", "stem", 1, 32, 32),
        Block("blocks.1", True, "stem", "stem", 1, 32, 32),
        Block("blocks.2", False, "stem", "last", 2, 32, 32),
    ),
    whole=(),
)


def parameters(plan=PLAN, **options):
    return cut_space(plan, builder=BUILD, **options).to_dict()["parameters"]


def test_the_parameters_of_a_space():
    assert parameters(kinds=["separable"], start="both") == {
        "start": ["random", "inherited"],
        "shared": {"each": [{"width": [8, 16, 24, 32]}, {"width": [2, 4, 6, 8]}]},
        "blocks": {
            "each": [
                {
                    "kind": ["drop", "separable", "whole"],
                    "inner": {"each": [{"width": [8, 16, 20]}], "when": {"kind": ["whole"]}},
                },
                {
                    "kind": ["drop", "separable", "whole"],
                    "inner": {"each": [{"width": [1, 2, 3, 4]}], "when": {"kind": ["whole"]}},
                },
                {"kind": ["separable", "whole"]},
            ]
        },
    }


def test_there_is_a_kind_only_where_there_is_a_choice():
    made = parameters(depth="whole")["blocks"]["each"]
    assert made == [
        {"inner": {"each": [{"width": [8, 16, 20]}]}},
        {"inner": {"each": [{"width": [1, 2, 3, 4]}]}},
        {"kind": ["whole"]},
    ]
    assert "start" not in parameters()


def test_a_number_of_blocks_goes_in_the_order_given():
    made = parameters(depth=[1, 0])
    assert made["depth"] == {"int": [0, 2]}
    first, second, third = made["blocks"]["each"]
    assert first["kind"] == {"choice": ["whole"], "when": {"depth": [1, 2]}}
    assert second["kind"] == {"choice": ["whole"], "when": {"depth": [2]}}
    assert third == {"kind": ["whole"]}
    space = cut_space(PLAN, builder=BUILD, depth=[1, 0])
    for depth, gone in ((0, {0, 1}), (1, {1}), (2, set())):
        values = space.draw(lambda name, domain, depth=depth: depth if name == "depth" else domain.at(0)).to_dict()
        assert {index for index, kind in cut_of(PLAN, values).kinds.items() if kind == "drop"} == gone


@pytest.mark.parametrize(
    ("widths", "multiple", "expected"),
    [
        (WIDTHS, 8, [8, 16, 24, 32]),
        (WIDTHS, 1, [4, 8, 12, 16, 24, 32]),
        (WIDTHS, 64, [32]),
        ((0.01, 0.3), 1, [1, 10]),
        ((0.3,), 5, [10]),
    ],
)
def test_widths_are_rounded_up_and_never_above_the_teachers(widths, multiple, expected):
    plan = Plan((group("stem", 32),), PLAN.blocks[:1], ())
    assert parameters(plan, widths=widths, multiple=multiple)["shared"]["each"] == [{"width": expected}]


def test_kinds_are_offered_to_the_blocks_that_they_fit():
    odd = Block("blocks.0", False, "stem", None, 1, 32, 0)
    tokens = Block("blocks.1", False, "stem", "stem", 1, 32, 32, tokens=True)
    plan = Plan((group("stem", 32),), (odd, tokens, PLAN.blocks[2]), ())
    made = parameters(plan, kinds=["separable", "linear"])["blocks"]["each"]
    assert [entry["kind"] for entry in made] == [["whole"], ["linear", "whole"], ["separable", "whole"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["seprable"]}, "unknown kind of a block 'seprable'; did you mean 'separable'"),
        ({"kinds": ["linear"]}, "kinds: 'linear' fits no block"),
        ({"depth": [0]}, r"each droppable block once \(\[0, 1\]\), and \[0\] was given"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(SpaceError, match=message):
        parameters(**options)


def test_a_teacher_that_cannot_be_cut_at_all():
    plan = Plan((), (Block("blocks.0", False, None, None, 1, 3, 3),), (Whole("stem", "it is odd"),))
    with pytest.raises(SpaceError, match=r"nothing can be cut from the teacher \(stem: it is odd\)"):
        parameters(plan)


def test_the_first_units_stay_or_the_most_important():
    values = {
        "shared": [{"width": 3}, {"width": 8}],
        "blocks": [{"kind": "whole", "inner": [{"width": 2}]}, {"kind": "drop"}, {"kind": "separable"}],
    }
    assert cut_of(PLAN, values) == Cut({"stem": (0, 1, 2), "inner": (0, 1)}, {1: "drop", 2: "separable"})
    orders = {"stem": tuple(reversed(range(32))), "inner": (7, 3, *range(3), *range(4, 7), *range(8, 20))}
    assert cut_of(PLAN, values, orders).keep == {"stem": (29, 30, 31), "inner": (3, 7)}


def test_what_is_missing_is_not_cut():
    assert cut_of(PLAN, {}) == Cut()
    assert cut_of(PLAN, {"start": "random", "blocks": [{}, {}, {}]}) == Cut()


@pytest.mark.parametrize("values", [{"shared": [{"width": 1}] * 3}, {"blocks": [{}] * 4}])
def test_values_of_another_plan_are_refused(values):
    with pytest.raises(SpaceError, match="entries"):
        cut_of(PLAN, values)


def test_the_largest_architecture_cuts_nothing():
    _, plan = planned("transformer")
    space = cut_space(plan, builder=BUILD, kinds=["linear"], start="both")
    assert cut_of(plan, space.largest().to_dict()) == Cut()
    assert cut_of(plan, space.smallest().to_dict()).kinds == dict.fromkeys(range(3), "drop")


def test_narrower_students_hold_a_part_of_wider_ones():
    _, plan = planned("residual")
    rng = np.random.default_rng(0)
    orders = {group.name: tuple(int(unit) for unit in rng.permutation(group.size)) for group in plan.groups}
    widths = [cut_of(plan, {"shared": [{"width": width}]}, orders).keep["stem.0"] for width in (4, 8, 12)]
    assert set(widths[0]) < set(widths[1]) < set(widths[2])


@pytest.mark.parametrize(("width", "multiple"), [(4, 1), (16, 4), (24, 4), (32, 8), (256, 8)])
def test_channels_are_rounded_by_the_narrowest_width_unless_told_otherwise(width, multiple):
    def shared(name, size, kind="channels"):
        places = tuple((unit,) for unit in range(size))
        return Group(name, kind, size, (Slot(name, "out", places),), None)

    inner = replace(shared("gate", 2), block=0)
    plan = Plan((shared("stem", width), shared("wide", 512), shared("heads", 2, "heads"), inner), (), ())
    assert multiple_for(plan) == multiple
