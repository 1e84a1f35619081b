import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.costs.counting import count
from nas_distill.pruning.build import CutBuilder, count_cut
from nas_distill.pruning.plan import DROPPED, UNPRUNED, Block, Cut, Group, KeptUnits, Plan, Slot, Unpruned
from nas_distill.pruning.space import WIDTHS, CutSpace, decode, multiple_for, start_of
from nas_distill.utils.errors import SpaceError
from tests.pruning.networks import CLASSES, SHAPE, planned

BUILD = "nas_distill.pruning.build:build"


def group(name, size, block=None, kind="channels", run=1):
    indices = tuple(tuple(range(unit * run, unit * run + run)) for unit in range(size))
    return Group(name, kind, size, (Slot(name, "out", indices),), block)


PLAN = Plan(
    groups=(group("stem", 32), group("inner", 20, 0), group("heads", 4, 1, "heads"), group("last", 8, run=4)),
    blocks=(
        Block("blocks.0", True, "stem", "stem", 1, 32, 32),
        Block("blocks.1", True, "stem", "stem", 1, 32, 32),
        Block("blocks.2", False, "stem", "last", 2, 32, 32),
    ),
    unpruned=(),
)


def parameters(plan=PLAN, **options):
    return CutSpace.from_plan(plan, **options).search_space(BUILD).to_dict()["parameters"]


def test_the_parameters_of_a_space():
    assert parameters(replacements=["separable"], start="both") == {
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


def test_a_block_has_a_kind_only_where_there_is_a_choice():
    made = parameters(depth="whole")["blocks"]["each"]
    assert made == [
        {"inner": {"each": [{"width": [8, 16, 20]}]}},
        {"inner": {"each": [{"width": [1, 2, 3, 4]}]}},
        {"kind": ["whole"]},
    ]
    assert "start" not in parameters()


def test_depth_drops_blocks_in_the_given_order():
    made = parameters(depth=[1, 0])
    assert made["depth"] == {"int": [0, 2]}
    first, second, third = made["blocks"]["each"]
    assert first["kind"] == {"choice": ["whole"], "when": {"depth": [1, 2]}}
    assert second["kind"] == {"choice": ["whole"], "when": {"depth": [2]}}
    assert third == {"kind": ["whole"]}
    cuts = CutSpace.from_plan(PLAN, depth=[1, 0])
    space = cuts.search_space(BUILD)
    for depth, gone in ((0, {0, 1}), (1, {1}), (2, set())):
        values = space.draw(lambda name, domain, depth=depth: depth if name == "depth" else domain.at(0))
        assert cuts.decode(values).kept_blocks == tuple(index for index in range(3) if index not in gone)


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


def test_replacements_are_offered_to_the_blocks_that_they_fit():
    odd = Block("blocks.0", False, "stem", None, 1, 32, 0)
    tokens = Block("blocks.1", False, "stem", "stem", 1, 32, 32, tokens=True)
    plan = Plan((group("stem", 32),), (odd, tokens, PLAN.blocks[2]), ())
    made = parameters(plan, replacements=["separable", "linear"])["blocks"]["each"]
    assert [entry["kind"] for entry in made] == [["whole"], ["linear", "whole"], ["separable", "whole"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replacements": ["seprable"]}, "'seprable'; did you mean 'separable'"),
        ({"replacements": ["linear"]}, "kinds: 'linear' fits no block"),
        ({"depth": [0]}, r"each droppable block once \(\[0, 1\]\), and \[0\]"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(SpaceError, match=message):
        parameters(**options)


def test_a_plan_without_anything_to_cut_is_refused():
    plan = Plan((), (Block("blocks.0", False, None, None, 1, 3, 3),), (Unpruned("stem", "it is odd"),))
    with pytest.raises(SpaceError, match=r"nothing can be cut from the teacher \(stem: it is odd\)"):
        parameters(plan)


def test_the_first_or_the_most_important_units_are_kept():
    values = {
        "shared": [{"width": 3}, {"width": 8}],
        "blocks": [{"kind": "whole", "inner": [{"width": 2}]}, {"kind": "drop"}, {"kind": "separable"}],
    }
    cut = decode(PLAN, values)
    assert cut == Cut({"stem": 3, "inner": 2, "last": 8}, ("whole", "drop", "separable"))
    assert cut.units(PLAN) == KeptUnits({"stem": (0, 1, 2), "inner": (0, 1)}, {1: "drop", 2: "separable"})
    orders = {"stem": range(31, -1, -1), "inner": (7, 3, *range(3), *range(4, 7), *range(8, 20))}
    assert cut.units(PLAN, orders).units == {"stem": (29, 30, 31), "inner": (3, 7)}


def test_values_that_are_missing_are_not_cut():
    assert decode(PLAN, {}) == Cut.of(PLAN)
    assert decode(PLAN, {}).units(PLAN) == KeptUnits()
    assert decode(PLAN, {"start": "random", "blocks": [{}, {}, {}]}) == Cut.of(PLAN, start="random")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shared": [{"width": 1}] * 3}, "entries"),
        ({"blocks": [{}] * 4}, "entries"),
        ({"shared": [{"width": 33}]}, "1 to 32 units, not 33"),
        ({"shared": [{"widht": 3}]}, "are not those of a student"),
        ({"shard": []}, "no parameter 'shard'; did you mean 'shared'"),
    ],
)
def test_values_of_another_plan_are_refused(values, message):
    with pytest.raises(SpaceError, match=message):
        decode(PLAN, values)


def test_the_unpruned_cut_is_the_teacher():
    _, plan = planned("transformer")
    cuts = CutSpace.from_plan(plan, replacements=["linear"], start="both")
    space = cuts.search_space(BUILD)
    assert cuts.decode(space.largest()) == cuts.unpruned == Cut.of(plan)
    assert cuts.unpruned.units(plan) == KeptUnits()
    assert cuts.decode(space.smallest()).kept_blocks == ()


def test_narrower_students_keep_a_subset_of_the_units_of_wider_ones():
    _, plan = planned("residual")
    rng = np.random.default_rng(0)
    orders = {group.name: tuple(int(unit) for unit in rng.permutation(group.size)) for group in plan.groups}
    units = [set(Cut.of(plan, {"stem.0": width}).units(plan, orders).units["stem.0"]) for width in (4, 8, 12)]
    assert units[0] < units[1] < units[2]


@pytest.mark.parametrize(("width", "multiple"), [(4, 1), (16, 4), (24, 4), (32, 8), (256, 8)])
def test_the_default_multiple_depends_on_the_narrowest_width(width, multiple):
    def shared(name, size, kind="channels"):
        indices = tuple((unit,) for unit in range(size))
        return Group(name, kind, size, (Slot(name, "out", indices),), None)

    inner = replace(shared("gate", 2), block=0)
    plan = Plan((shared("stem", width), shared("wide", 512), shared("heads", 2, "heads"), inner), (), ())
    assert multiple_for(plan) == multiple


@st.composite
def spaces(draw):
    """Spaces of the plan above, with all options."""
    order = draw(st.permutations([0, 1]))
    shares = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
    return CutSpace.from_plan(
        PLAN,
        widths=shares,
        multiple=draw(st.sampled_from([1, 4, 8])),
        depth=draw(st.sampled_from(["each", "whole", order])),
        replacements=draw(st.sampled_from([(), ("separable",)])),
        start=draw(st.sampled_from(["inherited", "random", "both"])),
    )


@st.composite
def cuts_in(draw, space):
    """Cuts of a space, made without its methods."""
    blocks = [draw(st.sampled_from(choices)) for choices in space.choices]
    dropped = draw(st.integers(0, len(space.depth_order)))
    for place, index in enumerate(space.depth_order):
        kept = [name for name in space.choices[index] if name != DROPPED]
        blocks[index] = DROPPED if place < dropped else draw(st.sampled_from(kept))
    active = [group for group in PLAN.groups if group.block is None or blocks[group.block] == UNPRUNED]
    widths = {group.name: draw(st.sampled_from(space.widths[group.name])) for group in active}
    start = draw(st.sampled_from(["inherited", "random"])) if space.start == "both" else space.start
    return Cut(widths, tuple(blocks), start)


@settings(deadline=None)
@given(st.data())
def test_decode_inverts_encode(data):
    space = data.draw(spaces())
    cut = data.draw(cuts_in(space))
    architecture = space.encode(cut)
    assert space.decode(architecture) == cut
    assert hash(space.decode(architecture)) == hash(cut)
    assert space.search_space(BUILD).validate(architecture.to_dict()) == architecture
    # Builders decode the same cut, except for a start that is not a parameter.
    assert replace(decode(PLAN, architecture.to_dict()), start=cut.start) == cut


@settings(deadline=None)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_every_sampled_architecture_is_a_cut(space, seed):
    architecture = space.search_space(BUILD).sample(np.random.default_rng(seed))
    cut = space.decode(architecture)
    space.check(cut)
    assert space.encode(cut) == architecture
    assert start_of(architecture.to_dict()) == (cut.start if space.start == "both" else None)


@settings(deadline=None)
@given(spaces())
def test_a_space_round_trips_through_json(space):
    assert CutSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@settings(deadline=None)
@given(st.data())
def test_moves_stay_in_the_space_and_have_inverses(data):
    space = data.draw(spaces())
    cut = data.draw(cuts_in(space))
    group = data.draw(st.sampled_from(sorted(cut.widths)))
    width = data.draw(st.sampled_from(space.widths[group]))
    moved = space.with_width(cut, group, width)
    assert moved.widths == {**cut.widths, group: width}
    assert space.with_width(moved, group, cut.widths[group]) == cut
    block = data.draw(st.sampled_from(range(3)))
    name = data.draw(st.sampled_from(space.choices[block]))
    try:
        replaced = space.with_replacement(cut, block, name)
    except SpaceError:
        assert block in space.depth_order  # only then drops have an order
        assert DROPPED in (name, cut.blocks[block])
    else:
        assert replaced.blocks[block] == name
        assert space.decode(space.encode(replaced)) == replaced


@settings(deadline=None)
@given(spaces(), st.floats(0.01, 1.0))
def test_uniform_narrowing_takes_the_smallest_widths_not_below_the_share(space, share):
    cut = space.uniform(share)
    space.check(cut)
    assert cut.blocks == space.unpruned.blocks
    for group in PLAN.groups:
        above = [width for width in space.widths[group.name] if width >= round(share * group.size, 6)]
        assert cut.widths[group.name] == (min(above) if above else max(space.widths[group.name]))


def test_blocks_are_dropped_in_the_order_of_the_space():
    space = CutSpace.from_plan(PLAN, depth=[1, 0])
    with pytest.raises(SpaceError, match="in the order"):
        space.without_block(space.unpruned, 0)
    shallow = space.without_block(space.without_block(space.unpruned, 1), 0)
    assert shallow.kept_blocks == (2,)
    assert shallow.widths == {"stem": 32, "last": 8}
    with pytest.raises(SpaceError, match="in the order"):
        space.with_replacement(shallow, 1, UNPRUNED)
    assert space.with_replacement(shallow, 0, UNPRUNED).widths == {"stem": 32, "inner": 20, "last": 8}


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (
            lambda space, cut: space.with_width(cut, "stem", 9),
            "cannot keep 9 units in this space; allowed: 8, 16",
        ),
        (lambda space, cut: space.with_width(cut, "stme", 8), "no group 'stme'; did you mean 'stem'"),
        (lambda space, cut: space.with_width(space.without_block(cut, 0), "inner", 8), "'inner' cannot have a width"),
        (lambda space, cut: space.without_block(cut, 2), "block 2 cannot be 'drop' in this space; allowed: whole"),
        (lambda space, cut: space.without_block(cut, 3), "no block 3"),
        (lambda space, cut: space.encode(replace(cut, start="random")), "start from inherited weights, not"),
        (lambda space, cut: space.encode(replace(cut, blocks=cut.blocks[1:])), "has 2 blocks, and the teacher has 3"),
        (lambda space, cut: space.encode(replace(cut, widths={"stem": 8})), "needs a width"),
        (lambda space, cut: Cut.of(PLAN, {"stem": 0}), "1 to 32 units, not 0"),
        (lambda space, cut: Cut.of(PLAN, {}, {3: "drop"}), "no block 3"),
    ],
)
def test_cuts_outside_of_the_space_are_refused(move, message):
    space = CutSpace.from_plan(PLAN)
    with pytest.raises(SpaceError, match=message):
        move(space, space.unpruned)


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_costs_of_a_cut_are_those_of_the_built_student(name):
    module, plan = planned(name)
    replacement = "linear" if name == "transformer" else "separable"
    space = CutSpace.from_plan(plan, multiple=2, replacements=[replacement])
    built = space.search_space(CutBuilder(module, plan))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    rng = np.random.default_rng(0)
    for cut in [space.unpruned, space.uniform(0.5), *(space.decode(built.sample(rng)) for _ in range(3))]:
        student = built.build(space.encode(cut), input_shape=SHAPE, num_classes=CLASSES)
        assert count_cut(module, plan, cut, SHAPE) == count(student, SHAPE)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
