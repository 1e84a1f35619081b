import pytest
import torch
from torch import nn

from nas_distill.cut.plan import Slot
from nas_distill.cut.resize import heads_of, resize, size_of
from nas_distill.cut.weights import by_unit, length, named, parts_of, weights_of

LAYERS = [
    (nn.Conv2d(6, 4, 3), "out", [("weight", 0), ("bias", 0)], 4),
    (nn.Conv2d(6, 4, 3, bias=False), "in", [("weight", 1)], 6),
    (nn.Conv2d(6, 12, 3, groups=3), "out", [("weight", 0), ("bias", 0)], 12),
    (nn.ConvTranspose2d(6, 4, 3), "out", [("weight", 1), ("bias", 0)], 4),
    (nn.ConvTranspose2d(6, 4, 3), "in", [("weight", 0)], 6),
    (nn.Linear(6, 4), "in", [("weight", 1)], 6),
    (nn.BatchNorm2d(4), "out", [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)], 4),
    (nn.InstanceNorm2d(4), "out", [], 4),
    (nn.LayerNorm(4, elementwise_affine=False), "out", [], 4),
    (nn.LayerNorm((3, 4)), "out", [("weight", 1), ("bias", 1)], 4),
    (nn.RMSNorm(4), "out", [("weight", 0)], 4),
    (nn.GroupNorm(2, 4), "out", [("weight", 0), ("bias", 0)], 4),
    (nn.PReLU(4), "out", [("weight", 0)], 4),
    (nn.Embedding(9, 4), "out", [("weight", 1)], 4),
    (nn.MultiheadAttention(4, 2), "in", [("in_proj_weight", 1)], 4),
    (nn.MultiheadAttention(4, 2), "out", [("in_proj_weight", 0), ("in_proj_bias", 0)], 12),
    (nn.ReLU(), "out", [], 0),
]


@pytest.mark.parametrize(("layer", "side", "expected", "size"), LAYERS, ids=lambda value: str(value)[:30])
def test_what_layers_have(layer, side, expected, size):
    root = nn.Sequential(layer)
    parts = parts_of(root, "0", side)
    assert [(part.name, part.axis) for part in parts] == expected
    assert length(root, "0", side) == size == size_of(layer, side)
    assert all(part.tensor.shape[part.axis] == size for part in parts)


@pytest.mark.parametrize(("layer", "side", "expected", "size"), LAYERS, ids=lambda value: str(value)[:30])
def test_sizes_are_set(layer, side, expected, size):
    if size:
        left = 6 if isinstance(layer, nn.MultiheadAttention) and side == "out" else size // 2
        resize(layer, side, left)
        assert size_of(layer, side) == left


def test_grouped_layers_lose_whole_groups():
    convolution, norm = nn.Conv2d(6, 12, 3, groups=3), nn.GroupNorm(4, 8)
    resize(convolution, "out", 8)
    resize(norm, "out", 6)
    assert (convolution.groups, convolution.in_channels, convolution.out_channels) == (2, 4, 8)
    assert (norm.num_groups, norm.num_channels) == (3, 6)
    single = nn.GroupNorm(1, 8)
    resize(single, "out", 6)
    assert (single.num_groups, single.num_channels) == (1, 6)


def test_heads_that_a_module_says_it_has():
    module = nn.Module()
    assert heads_of(module) == 0
    module.num_attention_heads, module.all_head_size = 4, 32
    assert heads_of(module) == 4
    resize(module, "out", 3)
    assert (module.num_attention_heads, module.all_head_size) == (3, 24)
    module.num_key_value_heads = 1  # several queries share a key
    assert heads_of(module) == 0


def test_parameters_that_stand_alone():
    root = nn.Module()
    root.position = nn.Parameter(torch.zeros(1, 5, 8))
    root.scale = nn.Parameter(torch.zeros(8, 1, 1))
    assert [(part.name, part.axis) for part in parts_of(root, "position", "out")] == [("position", 2)]
    assert length(root, "scale", "out") == 8
    assert parts_of(root, "scale", "out")[0].axis == 0
    with pytest.raises(AttributeError):
        named(root, "none")


def test_weights_are_parameters_alone():
    root = nn.Sequential(nn.BatchNorm2d(4))
    found = weights_of(root, Slot("0", "out", ((0,), (1,))))
    assert [(weight is own, axis) for (weight, axis), own in zip(found, root[0].parameters())] == [(True, 0)] * 2


def test_sums_by_unit():
    values = torch.arange(24.0).reshape(2, 6, 2)
    slot = Slot("a", "in", ((0, 3), (1,), (5, 4)))
    along = values.sum((0, 2))
    assert torch.equal(by_unit(values, 1, slot), torch.stack([along[0] + along[3], along[1], along[4] + along[5]]))
    assert torch.equal(by_unit(along, 0, slot), by_unit(values, 1, slot))
