from types import SimpleNamespace

import pytest

from nas_distill.cut.boundaries import find_blocks
from nas_distill.cut.plan import Group
from nas_distill.cut.trunk import Stretch


def stretch(module, **changes):
    usual = {"inputs": 8, "outputs": 8, "stride": 1, "tokens": False, "dims": 2}
    return Stretch(module, **{**usual, "same": True, "signed": True, "branch": False, **changes})


def found(trunk, narrowed, *, returned=None, runs=lambda names: True):
    """Return the blocks; ``narrowed``: for a group what cutting it does to both ends of each block."""
    groups = [Group(name, "channels", 8, (), None) for name in narrowed]
    asked = []

    def of_drops(blocks, given):
        assert list(given) == groups
        asked.append([block.module for block in blocks])
        return runs(asked[-1])

    proof = SimpleNamespace(seen={one.module: SimpleNamespace(returned=returned) for one in trunk}, of_drops=of_drops)
    boundaries = {
        name: {one.module: pair for one, pair in zip(trunk, pairs, strict=True)} for name, pairs in narrowed.items()
    }
    return find_blocks(trunk, groups, boundaries, proof), asked


def test_an_end_is_of_the_group_with_which_it_narrows():
    trunk = [stretch("a"), stretch("b", outputs=16, same=False)]
    blocks, _ = found(trunk, {"stem": [(True, True), (True, None)], "wide": [(None, None), (None, True)]})
    assert [(block.input, block.output) for block in blocks] == [("stem", "stem"), ("stem", "wide")]
    assert [(block.inputs, block.outputs) for block in blocks] == [(8, 8), (8, 16)]
    assert [block.droppable for block in blocks] == [True, False]


@pytest.mark.parametrize(
    ("given", "made"),
    [((False,), (True,)), ((True,), (False,)), ((True, True), (True,)), ((True,), (True, False))],
    ids=["mixed up in", "mixed up out", "of two groups in", "of two groups out"],
)
def test_an_end_that_is_not_one_group_in_order_is_of_none_and_the_block_stays(given, made):
    narrowed = {
        f"group{index}": [(given[index] if index < len(given) else None, made[index] if index < len(made) else None)]
        for index in range(2)
    }
    (block,), asked = found([stretch("a")], narrowed)
    assert (block.input, block.inputs) == (("group0", 8) if given == (True,) else (None, 0))
    assert (block.output, block.outputs) == (("group0", 8) if made == (True,) else (None, 0))
    assert not block.droppable
    assert asked == []


def test_channels_that_nothing_narrows_pass_by_whole():
    (block,), _ = found([stretch("a")], {"inner": [(None, None)]})
    assert (block.input, block.output, block.inputs, block.outputs) == (None, None, 8, 8)
    assert block.droppable


def test_a_block_between_two_groups_of_one_size_stays():
    (block,), _ = found([stretch("a")], {"stem": [(True, None)], "next": [(None, True)]})
    assert (block.input, block.output) == ("stem", "next")
    assert not block.droppable


@pytest.mark.parametrize(("changes", "droppable"), [({}, True), ({"same": False}, False), ({"branch": True}, False)])
def test_a_block_of_another_shape_or_beside_a_sum_stays(changes, droppable):
    (block,), _ = found([stretch("a", **changes)], {"stem": [(True, True)]})
    assert block.droppable is droppable


@pytest.mark.parametrize(
    ("returned", "wrapped", "output", "outputs"), [(None, False, "stem", 8), (1, True, "stem", 8), (2, True, None, 0)]
)
def test_one_value_may_be_wrapped_and_of_several_none_is_the_output(returned, wrapped, output, outputs):
    (block,), _ = found([stretch("a")], {"stem": [(True, True)]}, returned=returned)
    assert (block.wrapped, block.output, block.outputs) == (wrapped, output, outputs)
    assert block.droppable is (output is not None)


def test_what_the_network_cannot_run_without_stays_and_the_others_go_together():
    trunk = [stretch(name) for name in "abc"]
    pairs = {"stem": [(True, True)] * 3}
    blocks, asked = found(trunk, pairs, runs=lambda names: "b" not in names)
    assert [block.droppable for block in blocks] == [True, False, True]
    assert asked[0] == ["a", "b", "c"]
    assert asked[-1] == ["a", "c"]
    blocks, asked = found(trunk, pairs, runs=lambda names: len(names) < 2)
    assert [block.droppable for block in blocks] == [True, False, False]


def test_what_else_a_stretch_is_comes_with_it():
    (block,), _ = found([stretch("a", stride=2, tokens=True, dims=1, signed=False, same=False)], {})
    assert (block.stride, block.tokens, block.dims, block.signed) == (2, True, 1, False)
