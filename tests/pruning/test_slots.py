import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_distill.pruning.plan import Slot
from nas_distill.pruning.slots import by_unit, heads_of, length, named, resize, size_of, tensors_of, weights_of

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
def test_tensors_and_sizes_of_layers(layer, side, expected, size):
    root = nn.Sequential(layer)
    parts = tensors_of(root, "0", side)
    assert [(part.name, part.axis) for part in parts] == expected
    assert length(root, "0", side) == size == size_of(layer, side)
    assert all(part.tensor.shape[part.axis] == size for part in parts)


@pytest.mark.parametrize(("layer", "side", "expected", "size"), LAYERS, ids=lambda value: str(value)[:30])
def test_resize_sets_the_size(layer, side, expected, size):
    if size:
        left = 6 if isinstance(layer, nn.MultiheadAttention) and side == "out" else size // 2
        resize(layer, side, left)
        assert size_of(layer, side) == left


def test_grouped_layers_are_resized_by_groups():
    convolution, norm = nn.Conv2d(6, 12, 3, groups=3), nn.GroupNorm(4, 8)
    resize(convolution, "out", 8)
    resize(norm, "out", 6)
    assert (convolution.groups, convolution.in_channels, convolution.out_channels) == (2, 4, 8)
    assert (norm.num_groups, norm.num_channels) == (3, 6)
    single = nn.GroupNorm(1, 8)
    resize(single, "out", 6)
    assert (single.num_groups, single.num_channels) == (1, 6)


def test_heads_stated_by_attributes():
    module = nn.Module()
    assert heads_of(module) == 0
    module.num_attention_heads, module.all_head_size = 4, 32
    assert heads_of(module) == 4
    resize(module, "out", 3)
    assert (module.num_attention_heads, module.all_head_size) == (3, 24)
    module.num_key_value_heads = 1  # several queries share one key
    assert heads_of(module) == 1
    module.num_key_value_heads = 2  # 3 heads of queries cannot share 2
    assert heads_of(module) == 0


def test_parameters_outside_of_layers():
    root = nn.Module()
    root.position = nn.Parameter(torch.zeros(1, 5, 8))
    root.scale = nn.Parameter(torch.zeros(8, 1, 1))
    assert [(part.name, part.axis) for part in tensors_of(root, "position", "out")] == [("position", 2)]
    assert length(root, "scale", "out") == 8
    assert tensors_of(root, "scale", "out")[0].axis == 0
    with pytest.raises(AttributeError):
        named(root, "none")


def test_weights_are_only_parameters():
    root = nn.Sequential(nn.BatchNorm2d(4))
    found = weights_of(root, Slot("0", "out", ((0,), (1,))))
    assert [(weight is own, axis) for (weight, axis), own in zip(found, root[0].parameters())] == [(True, 0)] * 2


def test_sums_by_unit():
    values = torch.arange(24.0).reshape(2, 6, 2)
    slot = Slot("a", "in", ((0, 3), (1,), (5, 4)))
    along = values.sum((0, 2))
    assert torch.equal(by_unit(values, 1, slot), torch.stack([along[0] + along[3], along[1], along[4] + along[5]]))
    assert torch.equal(by_unit(along, 0, slot), by_unit(values, 1, slot))


RESIZED = [
    (nn.Conv2d(8, 6, 3, stride=2, padding=1), "in", 5, nn.Conv2d(5, 6, 3, stride=2, padding=1)),
    (nn.Conv2d(8, 6, 3, bias=False), "out", 2, nn.Conv2d(8, 2, 3, bias=False)),
    (nn.Conv1d(8, 6, 3), "out", 1, nn.Conv1d(8, 1, 3)),
    (nn.Conv3d(8, 6, 1), "in", 1, nn.Conv3d(1, 6, 1)),
    (nn.ConvTranspose2d(8, 6, 2, 2), "out", 3, nn.ConvTranspose2d(8, 3, 2, 2)),
    (nn.Linear(8, 6), "in", 3, nn.Linear(3, 6)),
    (nn.Linear(8, 6, bias=False), "out", 4, nn.Linear(8, 4, bias=False)),
    (nn.BatchNorm2d(8), "out", 3, nn.BatchNorm2d(3)),
    (nn.InstanceNorm1d(8, affine=True), "out", 3, nn.InstanceNorm1d(3, affine=True)),
    (nn.LayerNorm(8), "out", 3, nn.LayerNorm(3)),
    (nn.LayerNorm((4, 8)), "out", 3, nn.LayerNorm((4, 3))),
    (nn.RMSNorm(8), "out", 3, nn.RMSNorm(3)),
    (nn.GroupNorm(4, 8), "out", 6, nn.GroupNorm(3, 6)),
    (nn.GroupNorm(1, 8), "out", 5, nn.GroupNorm(1, 5)),
    (nn.PReLU(8), "out", 3, nn.PReLU(3)),
    (nn.Embedding(10, 8), "out", 3, nn.Embedding(10, 3)),
]


@pytest.mark.parametrize(("layer", "side", "left", "fresh"), RESIZED)
def test_a_resized_layer_has_the_attributes_of_a_new_one_of_that_size(layer, side, left, fresh):
    layer, other = copy.deepcopy(layer), "in" if side == "out" else "out"
    resize(layer, side, left)
    assert repr(layer) == repr(fresh)
    assert size_of(layer, side) == left
    assert size_of(layer, other) == size_of(fresh, other)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(1, 3), st.data())
def test_a_grouped_convolution_is_cut_by_groups(groups, ins, outs, data):
    layer = nn.Conv2d(groups * ins, groups * outs, 1, groups=groups)
    left = data.draw(st.integers(1, groups))
    with torch.no_grad():
        layer.weight, layer.bias = (
            nn.Parameter(part[: left * outs].detach().clone()) for part in (layer.weight, layer.bias)
        )
    resize(layer, "out", left * outs)
    assert (layer.in_channels, layer.out_channels, layer.groups) == (left * ins, left * outs, left)
    assert layer(torch.zeros(1, left * ins, 2, 2)).shape == (1, left * outs, 2, 2)


def test_rows_of_torchs_attention_are_counted_as_heads():
    module = nn.MultiheadAttention(16, 4)
    assert (size_of(module, "in"), size_of(module, "out")) == (16, 48)
    resize(module, "out", 36)
    assert (module.num_heads, module.head_dim, module.embed_dim, size_of(module, "out")) == (3, 4, 16, 36)
    resize(module, "in", 10)
    assert (module.embed_dim, module.kdim, module.vdim, module.num_heads) == (10, 10, 10, 3)


class Counted(nn.Module):
    """States its numbers of heads only as attributes."""

    def __init__(self, **counts):
        super().__init__()
        for name, value in counts.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("counts", "heads"),
    [
        ({"num_heads": 4}, 4),
        ({"n_head": 4, "num_attention_heads": 4, "inner_dim": 64}, 4),
        ({"num_heads": 8, "num_key_value_heads": 2}, 2),  # fewer heads of keys and values
        ({"num_heads": 8, "num_key_value_heads": 3}, 0),
        ({"num_heads": True}, 0),
        ({"heads": 4.0}, 0),
        ({"heads": [4]}, 0),
        ({"inner_dim": 64}, 0),
    ],
)
def test_the_number_of_heads_is_known_if_attributes_agree(counts, heads):
    assert heads_of(Counted(**counts)) == size_of(Counted(**counts), "out") == heads


def test_total_widths_shrink_with_the_number_of_heads_and_head_widths_stay():
    module = Counted(num_attention_heads=4, num_heads=4, all_head_size=64, head_dim=16, heads=None)
    resize(module, "out", 3)
    assert (module.num_attention_heads, module.num_heads, module.all_head_size) == (3, 3, 48)
    assert module.head_dim == 16
    assert module.heads is None
