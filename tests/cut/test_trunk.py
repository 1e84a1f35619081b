import pytest
import torch
from torch import nn

from nas_distill.common.errors import SpaceError
from nas_distill.common.layers.calls import record
from nas_distill.cut.sums import Sums
from nas_distill.cut.trunk import Stretch, find_trunk
from tests.cut.networks import SHAPE, Layer, Patches, Pooled, Residual, conv, images, make


def trunk(module, names=None, x=None):
    module.eval()
    with Sums(module) as sums:
        recording = record(module, images() if x is None else x)
    return find_trunk(module, recording, sums, names)


def names_of(module, **options):
    return [block.module for block in trunk(module, **options)]


def test_what_is_known_of_each_block():
    module = Pooled(conv(3, 16), [Residual(conv(16, 16, act=nn.Identity)), conv(16, 24, stride=2)], 24)
    first, second = trunk(module)
    usual = {"inputs": 16, "tokens": False, "dims": 2, "branch": False}
    assert first == Stretch("blocks.0", outputs=16, stride=1, same=True, signed=True, **usual)
    assert second == Stretch("blocks.1", outputs=24, stride=2, same=False, signed=False, **usual)
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

    blocks = trunk(Tokens())
    assert [(block.module, block.tokens, block.inputs, block.axis) for block in blocks] == [
        ("layers.0", True, 16, -1),
        ("layers.1", True, 16, -1),
    ]


def test_sequences_are_maps_of_one_dimension():
    def line():
        return nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.ReLU())

    block, _ = trunk(nn.Sequential(line(), line(), nn.Flatten(), nn.Linear(30, 2)), x=torch.randn(2, 3, 10))
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


def test_what_is_called_twice_is_no_block():
    shared = conv(16, 16)
    module = Pooled(conv(3, 16), [shared, conv(16, 16), nn.Sequential(shared)], 16)
    assert names_of(module) == ["blocks.1", "blocks.2"]  # a wrapper of it is called once


def test_what_is_added_around_a_block_makes_it_a_branch():
    class Beside(Pooled):
        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x.mean((2, 3)))

    assert [block.branch for block in trunk(Beside(conv(3, 16), [conv(16, 16), conv(16, 16)], 16))] == [True, True]


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
    assert trunk(Pooled(conv(3, 16), [block], 16))[0].stride == stride


def test_named_blocks_are_taken_as_they_are():
    module = make("residual")
    assert names_of(module, names=["stem", "blocks.1", "blocks.2.body"]) == ["stem", "blocks.1", "blocks.2.body"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "names no block"),
        (["blocks.9"], r"no module 'blocks\.9'; did you mean 'blocks\."),
        (["head"], "'head' is no block: it must be called once"),
        (["blocks.1", "blocks.0"], r"'blocks\.0' does not come after 'blocks\.1'"),
        (["blocks.1", "blocks.1"], r"'blocks\.1' does not come after 'blocks\.1'"),
        (["blocks.1", "blocks.1.body"], r"'blocks\.1\.body' does not come after 'blocks\.1'"),
    ],
)
def test_names_that_are_no_blocks_are_told(names, message):
    with pytest.raises(SpaceError, match=message):
        trunk(make("residual"), names=names)


def test_a_network_without_blocks_has_none():
    assert trunk(nn.Sequential(nn.Flatten(), nn.Linear(3 * SHAPE[1] * SHAPE[2], 4))) == []


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


def test_attributes_with_parts_come_before_single_convolutions():
    units = {name: Chain("ab", a=nn.Conv2d(3, 3, 1), b=nn.BatchNorm2d(3)) for name in ("one", "two")}
    assert names_of(Chain(["stem", "one", "two"], stem=nn.Conv2d(3, 3, 1), **units)) == ["one", "two"]


def test_an_attribute_inside_of_anothers_call_is_not_after_it():
    class Calls(nn.Module):
        def __init__(self, other):
            super().__init__()
            self.own, self.other = nn.Conv2d(3, 3, 1), [other]  # not registered as a part

        def forward(self, x):
            return self.other[0](self.own(x))

    inner = Chain("a", a=nn.Conv2d(3, 3, 1))
    assert names_of(
        Chain(["outer", "last"], inner=inner, outer=Calls(inner), last=Chain("a", a=nn.Conv2d(3, 3, 1)))
    ) == [
        "outer",
        "last",
    ]
