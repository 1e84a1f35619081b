import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_distill.pruning.attention import NarrowedAttention
from nas_distill.pruning.plan import KeptUnits, Slot
from nas_distill.pruning.replacements import Separable, Skip
from nas_distill.pruning.slots import tensors_of
from nas_distill.pruning.surgery import kept_indices, prune
from nas_distill.utils.errors import SpaceError
from tests.pruning.networks import NETWORKS, images, planned

EXACT = [name for name in NETWORKS if name not in ("layer_norm", "transformer", "post_norm", "own_attention", "mixer")]


def zeroed(module, group, keep):
    """Set the units that are not kept to zero in all layers that make, normalise or read them."""
    with torch.no_grad():
        for slot in group.slots:
            gone = [place for unit, indices in enumerate(slot.indices) if unit not in keep for place in indices]
            for part in tensors_of(module, slot.module, slot.side):
                part.tensor.index_fill_(part.axis, torch.tensor(gone, dtype=torch.long), 0.0)
    return module


def has_norm(module, group):
    """Say whether a norm computes statistics over the units of a group."""
    parts = [dict(module.named_modules()).get(slot.module) for slot in group.slots]
    return any(isinstance(part, nn.LayerNorm) or getattr(part, "num_groups", 0) == 1 for part in parts)


@pytest.mark.parametrize("name", NETWORKS)
def test_with_nothing_cut_the_network_is_the_same_bit_for_bit(name):
    module, plan = planned(name)
    wanted, parts = module(images()), list(module.modules())
    everything = KeptUnits({group.name: tuple(range(group.size)) for group in plan.groups}, dict.fromkeys([0], "whole"))
    for what in (KeptUnits(), everything):
        assert prune(module, plan, what) is module
        assert all(one is other for one, other in zip(module.modules(), parts, strict=True))
        assert torch.equal(module(images()), wanted)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.data())
def test_removing_zero_units_does_not_change_the_output(name, data):
    """Sums of fewer terms may be computed in another order, so equality is up to the last bits of double precision."""
    module, plan = planned(name)
    group = plan.groups[data.draw(st.integers(0, len(plan.groups) - 1))]
    if has_norm(module, group):  # zeros enter the statistics of a layer norm, removed channels do not
        return
    keep = data.draw(st.lists(st.integers(0, group.size - 1), min_size=1, unique=True).map(tuple))
    module = zeroed(module.double(), group, keep)
    wanted = module(images().double())
    found = prune(copy.deepcopy(module), plan, KeptUnits({group.name: keep}))(images().double())
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_a_permutation_of_all_groups_changes_nothing(name):
    module, plan = planned(name)
    module = module.double()
    wanted = module(images().double())
    generator = torch.Generator().manual_seed(1)
    keep = {group.name: tuple(torch.randperm(group.size, generator=generator).tolist()) for group in plan.groups}
    found = prune(module, plan, KeptUnits(keep))(images().double())
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_weights_are_those_of_the_kept_units_in_their_order():
    module, plan = planned("residual")
    whole = copy.deepcopy(module)
    keep = (7, 2, 11)
    prune(module, plan, KeptUnits({"stem.0": keep}))
    assert torch.equal(module.stem[0].weight, whole.stem[0].weight[list(keep)])
    assert torch.equal(module.stem[1].running_var, whole.stem[1].running_var[list(keep)])
    assert torch.equal(module.blocks[0].body[0].weight, whole.blocks[0].body[0].weight[:, list(keep)])
    assert (module.stem[0].out_channels, module.stem[1].num_features, module.blocks[0].body[0].in_channels) == (3, 3, 3)
    assert not module.stem[0].weight.requires_grad


def test_both_dimensions_of_a_weight_are_cut():
    module, plan = planned("residual")
    prune(module, plan, KeptUnits({"stem.0": (0, 1, 2), "blocks.0.body.0": (3, 4)}))
    assert module.blocks[0].body[0].weight.shape == (2, 3, 3, 3)
    assert module(images()).shape == (2, 5)


def test_a_dropped_block_returns_its_input():
    module, plan = planned("residual")
    wanted = module.head(module.blocks[3](module.blocks[2](module.blocks[1](module.stem(images())))))
    prune(module, plan, KeptUnits({}, {0: "drop"}))
    assert isinstance(module.blocks[0], Skip)
    assert torch.equal(module(images()), wanted)


def test_all_layers_of_torchs_encoder_can_be_dropped():
    module, plan = planned("transformer")
    wanted = module.head(module.norm(module.embed(images()))[:, 0])
    prune(module, plan, KeptUnits({}, dict.fromkeys(range(3), "drop")))
    assert torch.equal(module(images()), wanted)


def test_a_replacement_has_the_widths_around_it():
    module, plan = planned("residual")
    prune(module, plan, KeptUnits({"stem.0": (0, 1, 2), "blocks.2.body.3": (5, 6)}, {2: "separable"}))
    block = module.blocks[2]
    assert isinstance(block, Separable)
    assert [part.out_channels for part in block.modules() if isinstance(part, nn.Conv2d)] == [3, 2]
    assert not block.training
    assert module(images()).shape == (2, 5)


def test_attention_is_replaced_only_where_it_is_cut():
    module, plan = planned("transformer")
    prune(module, plan, KeptUnits({"encoder.layers.1.self_attn": (3, 0)}))
    kinds = [type(layer.self_attn) for layer in module.encoder.layers]
    assert kinds == [nn.MultiheadAttention, NarrowedAttention, nn.MultiheadAttention]
    narrowed = module.encoder.layers[1].self_attn
    assert (narrowed.num_heads, narrowed.head_dim, narrowed.embed_dim) == (2, 8, 32)
    assert narrowed.in_proj_weight.shape == (48, 32)


def test_tied_weights_stay_tied():
    from nas_distill.pruning.discovery import find_plan
    from tests.pruning.networks import SHAPE, Pooled, Residual, conv

    module = Pooled(conv(3, 16), [Residual(conv(16, 16)), Residual(conv(16, 16))], 16)
    module.blocks[1].body[0].weight = module.blocks[0].body[0].weight
    plan = find_plan(module, SHAPE)
    prune(module, plan, KeptUnits({"stem.0": (0, 3, 4)}))
    assert module.blocks[1].body[0].weight is module.blocks[0].body[0].weight
    assert module.blocks[0].body[0].weight.shape == (3, 3, 3, 3)


@settings(deadline=None)
@given(st.data())
def test_kept_indices_are_those_of_kept_units(data):
    """For all layouts: unit by unit, interleaved, or with indices of another group around."""
    size, run = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    order = data.draw(st.permutations(range(size * run + 2)))
    indices = tuple(tuple(order[unit * run : (unit + 1) * run]) for unit in range(size))
    keep = data.draw(st.permutations(range(size)))[: data.draw(st.integers(1, size))]
    kept = kept_indices(size * run + 2, [(Slot("a", "in", indices), keep)])
    others = sorted(set(range(size * run + 2)) - {index for one in indices for index in one})
    assert sorted(kept) == sorted([*others, *(index for unit in keep for index in indices[unit])])
    for offset in range(run):  # the n-th index of each unit is in the order of the units, as in the teacher
        own = [indices[unit][offset] for unit in sorted(keep)]
        assert [kept.index(indices[unit][offset]) for unit in keep] == [sorted(kept).index(index) for index in own]
    assert [index for index in kept if index in others] == others


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (KeptUnits({"stem": (0,)}), r"no group 'stem'; did you mean 'stem\.0'\?"),
        (KeptUnits({"stem.0": ()}), r"'stem\.0' cannot be cut to \[\]; give different units from 0 to 15"),
        (KeptUnits({"stem.0": (0, 16)}), "cannot be cut to"),
        (KeptUnits({"stem.0": (1, 1)}), "cannot be cut to"),
        (KeptUnits({}, {4: "drop"}), "no block 4"),
        (KeptUnits({}, {2: "drop"}), r"block 2 \('blocks\.2'\) cannot be dropped"),
        (KeptUnits({}, {0: "separabel"}), "'separabel'; did you mean 'separable'"),
        (KeptUnits({}, {0: "linear"}), "cannot be replaced by 'linear'"),
    ],
)
def test_invalid_cuts_are_refused(what, message):
    module, plan = planned("residual")
    with pytest.raises(SpaceError, match=message):
        prune(module, plan, what)
