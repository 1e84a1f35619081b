from dataclasses import replace

import pytest
import torch
from torch import nn

from nas_distill.cut.plan import Block, Group, Slot
from nas_distill.cut.proof import Proof
from tests.cut.networks import SHAPE, Pooled, Residual, conv, planned


def proof(name):
    module, plan = planned(name)
    return Proof(module, SHAPE, {block.module: -1 if block.tokens else 1 for block in plan.blocks}), plan


def identity(size):
    return tuple((unit,) for unit in range(size))


@pytest.mark.parametrize("name", ["residual", "mobile", "transformer", "grouped"])
def test_groups_that_hold(name):
    tried, plan = proof(name)
    assert all(tried.of_groups(group).reason is None for group in plan.groups)
    assert tried.of_groups(*plan.groups, share=0.1).reason is None


@pytest.mark.parametrize("missing", range(7))
def test_a_group_that_misses_a_dimension_does_not_hold(missing):
    """Of a stem's width: two convolutions make it, two norms pass it on, three layers read it."""
    tried, plan = proof("grouped")
    group = plan.group("stem.0")
    slots = [slot for index, slot in enumerate(group.slots) if index != missing]
    if missing < len(group.slots):
        assert tried.of_groups(replace(group, slots=tuple(slots))).reason is not None


def test_a_group_that_mixes_up_places_does_not_hold():
    tried, plan = proof("residual")
    group = plan.group("blocks.0.body.0")
    slots = [replace(slot, indices=slot.indices[::-1]) if slot.side == "in" else slot for slot in group.slots]
    assert "something else" in str(tried.of_groups(replace(group, slots=tuple(slots))).reason)


def test_heads_are_not_any_runs_of_channels():
    tried, plan = proof("transformer")
    heads = plan.group("encoder.layers.0.self_attn")
    assert tried.of_groups(heads).reason is None
    mixed = tuple((*one[:-1], other[-1]) for one, other in zip(heads.slots[0].indices, heads.slots[0].indices[1:]))
    broken = Group(heads.name, "heads", 3, (replace(heads.slots[0], indices=mixed), heads.slots[1]), 0)
    assert tried.of_groups(broken).reason is not None


def test_the_output_is_told_apart():
    tried, _ = proof("residual")
    head = Group("head.linear", "neurons", 5, (Slot("head.linear", "out", identity(5)),), None)
    assert tried.of_groups(head).output


def test_boundaries_say_whose_channels_pass():
    tried, _ = proof("residual")
    _, plan = planned("residual")
    assert tried.of_groups(plan.group("stem.0")).narrowed == {
        "blocks.0": (True, True),
        "blocks.1": (True, True),
        "blocks.2": (True, None),
        "blocks.3": (None, None),
    }


def test_a_boundary_of_several_groups_is_not_that_of_one():
    tried, plan = proof("concatenating")
    first, second = plan.group("stem.0"), plan.group("blocks.0.body.2")
    assert tried.of_groups(first).narrowed["blocks.1"] == (False, False)
    assert tried.of_groups(second).narrowed["blocks.1"][0] is not None


def test_a_boundary_with_channels_in_another_order_is_not_aligned():
    class Swap(nn.Module):
        def forward(self, x):
            return torch.cat([x[:, 1::2], x[:, ::2]], 1)

    module = Pooled(conv(3, 16), [nn.Sequential(conv(16, 16), Swap()), conv(16, 16)], 16).eval()
    group = Group(
        "blocks.0.0.0",
        "channels",
        16,
        (
            Slot("blocks.0.0.0", "out", identity(16)),
            Slot("blocks.0.0.1", "out", identity(16)),
            Slot("blocks.1.0", "in", tuple((8 + place // 2 if place % 2 == 0 else place // 2,) for place in range(16))),
        ),
        None,
    )
    verdict = Proof(module, SHAPE, {"blocks.0": 1, "blocks.1": 1}).of_groups(group)
    if verdict.reason is None:  # it holds only where as many even as odd channels stay
        assert verdict.narrowed["blocks.1"][0] is False


def test_drops():
    tried, plan = proof("residual")
    assert tried.of_drops([block for block in plan.blocks if block.droppable], plan.groups)
    changing = Block("blocks.2", True, None, None, 1)
    assert not tried.of_drops([changing], ())


def test_a_dropped_block_must_fit_what_is_cut_around_it():
    module = Pooled(conv(3, 16), [conv(16, 16), Residual(conv(16, 16))], 16).eval()
    tried = Proof(module, SHAPE, {"blocks.0": 1, "blocks.1": 1})
    group = Group("stem.0", "channels", 16, tuple(Slot(*slot, identity(16)) for slot in STEM), None)
    assert tried.of_groups(group).reason is None
    assert tried.of_drops([Block("blocks.0", True, None, None, 1)], ())
    assert not tried.of_drops([Block("blocks.0", True, None, None, 1)], [group])


STEM = (("stem.0", "out"), ("stem.1", "out"), ("blocks.0.0", "in"))
