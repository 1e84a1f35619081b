"""Shortcuts that pad channels with zeros, rewritten as convolutions."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.plan import KeptUnits, Plan
from nas_distill.pruning.shortcuts import ChannelMap, rewritten
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.surgery import prune
from nas_distill.utils.seeds import seeded_torch
from tests.pruning.networks import CLASSES, SHAPE, Padding, Pooled, Residual, conv, images, padded, padding


@pytest.fixture(scope="module")
def teacher():
    with seeded_torch(0, "shortcuts"):
        return padded().eval()


@pytest.fixture(scope="module")
def plan(teacher):
    return find_plan(teacher, SHAPE)


def test_the_widths_on_both_sides_of_a_padded_shortcut_are_cut(plan):
    assert plan.unpruned == ()
    assert [(group.name, group.size) for group in plan.shared] == [("stem.0", 16), ("blocks.1.body.1.0", 32)]
    assert [one.module for one in plan.rewrites] == ["blocks.1.shortcut"]


def test_the_rewritten_teacher_equals_the_teacher_in_double_precision(teacher, plan):
    exact = copy.deepcopy(teacher).double()
    x = images(4).double()
    assert torch.equal(rewritten(exact, plan.rewrites)(x), exact(x))
    assert isinstance(exact.blocks[1].shortcut, Padding)  # a copy was rewritten


def test_a_cut_student_is_the_teacher_with_the_same_channels_at_zero(teacher, plan):
    kept = tuple(range(1, 16, 3))
    student = prune(copy.deepcopy(teacher), plan, KeptUnits({"stem.0": kept}))
    zeroed = copy.deepcopy(teacher)
    gone = [place for place in range(16) if place not in kept]
    with torch.no_grad():
        for norm in (zeroed.stem[1], zeroed.blocks[0].body[1]):
            norm.weight[gone] = norm.bias[gone] = 0
    assert torch.allclose(student(images()), zeroed(images()), atol=1e-5)


def test_students_with_random_weights_start_with_the_plain_shortcut(teacher, plan):
    cuts = CutSpace.from_plan(plan, multiple=2)
    space = cuts.search_space(CutBuilder(teacher, plan))
    student = space.build(space.smallest(), input_shape=SHAPE, num_classes=CLASSES)
    shortcut = student.blocks[1].shortcut
    assert set(shortcut.weight.unique().tolist()) <= {0.0, 1.0}
    assert student.eval()(images()).shape == (2, CLASSES)
    kept = cuts.decode(space.smallest()).units(plan)
    student.load_state_dict(prune(copy.deepcopy(teacher), plan, kept).state_dict())


def test_a_plan_keeps_its_rewrites(plan):
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], 1),
        lambda x: torch.cat([functional.avg_pool2d(x, 1, 2), functional.avg_pool2d(x, 1, 2).mul(0)], 1),
        lambda x: x[:, :, ::2, ::2].repeat(1, 2, 1, 1),
        lambda x: functional.pad(x, (0, 0, 0, 0, 16, 0))[:, :, ::2, ::2],
    ],
)
def test_all_ways_to_pad_channels_are_rewritten(function):
    plan = find_plan(with_shortcut(Padding(function)), SHAPE)
    assert [one.module for one in plan.rewrites] == ["blocks.0.shortcut"]
    assert "stem.0" in {group.name for group in plan.groups}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, 8, 8)),
        lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), value=1.0),
        lambda x: functional.pad(x[:, :, ::2, ::2].relu(), (0, 0, 0, 0, 8, 8)),
    ],
)
def test_modules_that_do_more_than_select_and_pad_are_not_rewritten(function):
    assert find_plan(with_shortcut(Padding(function)), SHAPE).rewrites == ()


def with_shortcut(shortcut):
    return Pooled(conv(3, 16), [Residual(conv(16, 32, 2), shortcut)], 32).eval()


def test_padding_in_a_blocks_own_forward_is_reported_with_a_remedy():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = conv(16, 32, 2)

        def forward(self, x):
            return self.body(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))

    plan = find_plan(Pooled(conv(3, 16), [Block()], 32).eval(), SHAPE)
    reasons = {each.module: each.reason for each in plan.unpruned}
    assert "a module of its own" in reasons["blocks.0"]


def test_a_channel_map_keeps_its_map_when_weights_are_drawn_again():
    layer = ChannelMap(2, 1, (None, 1, 0))
    nn.init.normal_(layer.weight)
    layer.reset_parameters()
    assert layer.weight.flatten(1).tolist() == [[0, 0], [0, 1], [1, 0]]
    assert padding(1)(torch.ones(1, 2, 2, 2)).sum() == 2
