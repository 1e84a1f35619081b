from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nas_distill.pruning.backbone import BlockSignature, SumRecorder, find_backbone, find_blocks
from nas_distill.pruning.plan import Group
from nas_distill.utils.errors import SpaceError
from nas_distill.utils.layers.calls import record
from tests.pruning.networks import SHAPE, Layer, Patches, Pooled, Residual, conv, images, make


def recorded(module):
    with SumRecorder(module) as sums:
        recording = record(module, images())
    return sums, {call.name: call for call in recording.calls}


def test_residual_blocks_add_and_stages_do_not():
    module = Pooled(conv(3, 16), [nn.Sequential(Residual(conv(16, 16))), conv(16, 16)], 16)
    sums, _ = recorded(module)
    assert {name for name, _ in module.named_modules() if sums.is_residual(name)} == {"blocks.0.0"}


def test_all_ways_to_add_tensors_are_recorded():
    class Adds(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.how = how

        def forward(self, x):
            return self.how(x, 2 * x)

    def in_place(x, y):
        y += x
        return y

    for how in (torch.add, lambda x, y: x + y, in_place, lambda x, y: x.add(y), lambda x, y: y.add_(x)):
        sums, _ = recorded(Pooled(conv(3, 16), [Adds(how)], 16))
        assert sums.is_residual("blocks.0")
    for how in (torch.mul, lambda x, y: x + 1, lambda x, y: x + y.mean((2, 3), keepdim=True)):
        sums, _ = recorded(Pooled(conv(3, 16), [Adds(how)], 16))
        assert not sums.is_residual("blocks.0")


def test_outputs_of_branches_are_addends():
    sums, calls = recorded(make("residual"))
    addends = {name for name, call in calls.items() if call.output is not None and sums.is_addend(name, call.output)}
    assert "blocks.0.body" in addends
    assert not {f"blocks.{index}" for index in range(4)} & addends


def test_recording_leaves_no_hooks():
    module = make("residual")
    recorded(module)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def backbone(module, names=None, x=None):
    module.eval()
    with SumRecorder(module) as sums:
        recording = record(module, images() if x is None else x)
    return find_backbone(module, recording, sums, names)


def names_of(module, **options):
    return [block.module for block in backbone(module, **options)]


def test_signatures_of_blocks():
    module = Pooled(conv(3, 16), [Residual(conv(16, 16, act=nn.Identity)), conv(16, 24, stride=2)], 24)
    first, second = backbone(module)
    usual = {"inputs": 16, "tokens": False, "dims": 2, "branch": False}
    assert first == BlockSignature("blocks.0", outputs=16, stride=1, same=True, signed=True, **usual)
    assert second == BlockSignature("blocks.1", outputs=24, stride=2, same=False, signed=False, **usual)
    assert first.axis == 1


def test_blocks_of_tokens_have_their_channels_last():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layers = Patches(16), nn.ModuleList(Layer(16, 2) for _ in range(2))

        def forward(self, x):
            x = self.embed(x)
            for layer in self.layers:
                x = layer(x)
            return x.mean(1)

    blocks = backbone(Tokens())
    assert [(block.module, block.tokens, block.inputs, block.axis) for block in blocks] == [
        ("layers.0", True, 16, -1),
        ("layers.1", True, 16, -1),
    ]


def test_sequences_are_maps_of_one_dimension():
    def line():
        return nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.ReLU())

    block, _ = backbone(nn.Sequential(line(), line(), nn.Flatten(), nn.Linear(30, 2)), x=torch.randn(2, 3, 10))
    assert (block.tokens, block.dims, block.axis, block.inputs) == (False, 1, 1, 3)


def test_stages_are_opened_and_a_residual_around_a_list_is_one_block():
    stages = [nn.Sequential(Residual(conv(16, 16)), Residual(conv(16, 16))) for _ in range(2)]
    assert names_of(Pooled(conv(3, 16), stages, 16)) == ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1"]
    around = [Residual(nn.Sequential(Residual(conv(16, 16)), Residual(conv(16, 16)))), conv(16, 16)]
    assert names_of(Pooled(conv(3, 16), around, 16)) == ["blocks.0", "blocks.1"]


def test_blocks_are_in_the_order_of_the_forward_pass():
    class Backwards(Pooled):
        def forward(self, x):
            x = self.stem(x)
            for block in reversed(self.blocks):
                x = block(x)
            return self.head(x.mean((2, 3)))

    assert names_of(Backwards(conv(3, 16), [conv(16, 16), conv(16, 16)], 16)) == ["blocks.1", "blocks.0"]


def test_in_a_plain_chain_convolutions_are_the_blocks():
    assert names_of(make("sequential")) == ["0", "2", "5"]


def test_a_module_called_twice_is_not_a_block():
    shared = conv(16, 16)
    module = Pooled(conv(3, 16), [shared, conv(16, 16), nn.Sequential(shared)], 16)
    assert names_of(module) == ["blocks.1", "blocks.2"]  # its wrapper is called once


def test_a_block_whose_output_is_added_outside_is_a_branch():
    class Beside(Pooled):
        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x.mean((2, 3)))

    assert [block.branch for block in backbone(Beside(conv(3, 16), [conv(16, 16), conv(16, 16)], 16))] == [True, True]


@pytest.mark.parametrize(
    ("layer", "stride"),
    [
        (nn.Conv2d(16, 16, 3, 2, 1), 2),
        (nn.Conv2d(16, 16, 3, (2, 1), 1), 0),
        (nn.Conv2d(16, 16, 3), 0),
        (nn.AdaptiveAvgPool2d(1), 8),
        (nn.Upsample(scale_factor=2), 0),
        (nn.Upsample(scale_factor=4), 0),
    ],
)
def test_strides(layer, stride):
    block = nn.Sequential(nn.Conv2d(16, 16, 1), layer)
    assert backbone(Pooled(conv(3, 16), [block], 16))[0].stride == stride


def test_named_blocks_are_used_unchanged():
    module = make("residual")
    assert names_of(module, names=["stem", "blocks.1", "blocks.2.body"]) == ["stem", "blocks.1", "blocks.2.body"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is empty"),
        (["blocks.9"], r"no module 'blocks\.9'; did you mean 'blocks\."),
        (["head"], "'head' is not a block"),
        (["blocks.1", "blocks.0"], r"'blocks\.0' does not come after 'blocks\.1'"),
        (["blocks.1", "blocks.1"], r"'blocks\.1' does not come after 'blocks\.1'"),
        (["blocks.1", "blocks.1.body"], r"'blocks\.1\.body' does not come after 'blocks\.1'"),
    ],
)
def test_names_that_are_not_blocks_are_refused(names, message):
    with pytest.raises(SpaceError, match=message):
        backbone(make("residual"), names=names)


def test_a_network_without_blocks_has_an_empty_backbone():
    assert backbone(nn.Sequential(nn.Flatten(), nn.Linear(3 * SHAPE[1] * SHAPE[2], 4))) == []


class Chain(nn.Module):
    """Attributes, called in the order of ``order``."""

    def __init__(self, order, **parts):
        super().__init__()
        self.order = order
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def test_attributes_called_one_after_the_other_are_the_blocks():
    def parts():
        return {"b": nn.Conv2d(16, 16, 1), "a": nn.Conv2d(3, 16, 1), "end": nn.Flatten()}

    assert names_of(Chain("ab", **parts())) == ["a", "b"]
    inside = Chain(["features", "end"], features=Chain("ab", **parts()), end=nn.Flatten())
    assert names_of(inside) == ["features.a", "features.b"]


def test_attributes_with_submodules_take_precedence_over_convolutions():
    units = {name: Chain("ab", a=nn.Conv2d(3, 3, 1), b=nn.BatchNorm2d(3)) for name in ("one", "two")}
    assert names_of(Chain(["stem", "one", "two"], stem=nn.Conv2d(3, 3, 1), **units)) == ["one", "two"]


def test_an_attribute_called_inside_of_another_does_not_follow_it():
    class Calls(nn.Module):
        def __init__(self, other):
            super().__init__()
            self.own, self.other = nn.Conv2d(3, 3, 1), [other]  # not registered as a submodule

        def forward(self, x):
            return self.other[0](self.own(x))

    inner = Chain("a", a=nn.Conv2d(3, 3, 1))
    assert names_of(
        Chain(["outer", "last"], inner=inner, outer=Calls(inner), last=Chain("a", a=nn.Conv2d(3, 3, 1)))
    ) == [
        "outer",
        "last",
    ]


def signature(module, **changes):
    usual = {"inputs": 8, "outputs": 8, "stride": 1, "tokens": False, "dims": 2}
    return BlockSignature(module, **{**usual, "same": True, "signed": True, "branch": False, **changes})


def found(backbone, narrowed, *, returned=None, runs=lambda names: True):
    """Return the blocks; ``narrowed``: the effect of cutting each group on both boundaries of each block."""
    groups = [Group(name, "channels", 8, (), None) for name in narrowed]
    asked = []

    def check_drops(blocks, given):
        assert list(given) == groups
        asked.append([block.module for block in blocks])
        return runs(asked[-1])

    verifier = SimpleNamespace(
        block_values={one.module: SimpleNamespace(returned=returned) for one in backbone}, check_drops=check_drops
    )
    boundaries = {
        name: {one.module: pair for one, pair in zip(backbone, pairs, strict=True)} for name, pairs in narrowed.items()
    }
    return find_blocks(backbone, groups, boundaries, verifier), asked


def test_a_boundary_belongs_to_the_group_that_narrows_it():
    backbone = [signature("a"), signature("b", outputs=16, same=False)]
    blocks, _ = found(backbone, {"stem": [(True, True), (True, None)], "wide": [(None, None), (None, True)]})
    assert [(block.input, block.output) for block in blocks] == [("stem", "stem"), ("stem", "wide")]
    assert [(block.inputs, block.outputs) for block in blocks] == [(8, 8), (8, 16)]
    assert [block.droppable for block in blocks] == [True, False]


@pytest.mark.parametrize(
    ("given", "made"),
    [((False,), (True,)), ((True,), (False,)), ((True, True), (True,)), ((True,), (True, False))],
    ids=["mixed up in", "mixed up out", "of two groups in", "of two groups out"],
)
def test_a_boundary_of_several_groups_has_no_group_and_the_block_is_not_droppable(given, made):
    narrowed = {
        f"group{index}": [(given[index] if index < len(given) else None, made[index] if index < len(made) else None)]
        for index in range(2)
    }
    (block,), asked = found([signature("a")], narrowed)
    assert (block.input, block.inputs) == (("group0", 8) if given == (True,) else (None, 0))
    assert (block.output, block.outputs) == (("group0", 8) if made == (True,) else (None, 0))
    assert not block.droppable
    assert asked == []


def test_a_boundary_that_no_group_narrows_has_all_channels():
    (block,), _ = found([signature("a")], {"inner": [(None, None)]})
    assert (block.input, block.output, block.inputs, block.outputs) == (None, None, 8, 8)
    assert block.droppable


def test_a_block_between_two_groups_of_equal_size_is_not_droppable():
    (block,), _ = found([signature("a")], {"stem": [(True, None)], "next": [(None, True)]})
    assert (block.input, block.output) == ("stem", "next")
    assert not block.droppable


@pytest.mark.parametrize(("changes", "droppable"), [({}, True), ({"same": False}, False), ({"branch": True}, False)])
def test_a_block_that_changes_shape_or_is_a_branch_is_not_droppable(changes, droppable):
    (block,), _ = found([signature("a", **changes)], {"stem": [(True, True)]})
    assert block.droppable is droppable


@pytest.mark.parametrize(
    ("returned", "wrapped", "output", "outputs"), [(None, False, "stem", 8), (1, True, "stem", 8), (2, True, None, 0)]
)
def test_a_single_value_may_be_wrapped_and_several_values_have_no_output_group(returned, wrapped, output, outputs):
    (block,), _ = found([signature("a")], {"stem": [(True, True)]}, returned=returned)
    assert (block.wrapped, block.output, block.outputs) == (wrapped, output, outputs)
    assert block.droppable is (output is not None)


def test_only_blocks_without_which_the_network_runs_are_droppable():
    backbone = [signature(name) for name in "abc"]
    pairs = {"stem": [(True, True)] * 3}
    blocks, asked = found(backbone, pairs, runs=lambda names: "b" not in names)
    assert [block.droppable for block in blocks] == [True, False, True]
    assert asked[0] == ["a", "b", "c"]
    assert asked[-1] == ["a", "c"]
    blocks, asked = found(backbone, pairs, runs=lambda names: len(names) < 2)
    assert [block.droppable for block in blocks] == [True, False, False]


def test_blocks_copy_the_rest_of_their_signature():
    (block,), _ = found([signature("a", stride=2, tokens=True, dims=1, signed=False, same=False)], {})
    assert (block.stride, block.tokens, block.dims, block.signed) == (2, True, 1, False)
