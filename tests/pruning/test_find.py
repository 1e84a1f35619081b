import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from nas_distill.models import resnet
from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.plan import Group, KeptUnits, Slot
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.surgery import prune
from nas_distill.pruning.verification import Verifier
from nas_distill.utils.errors import SpaceError
from tests.pruning.networks import (
    CLASSES,
    NETWORKS,
    SHAPE,
    Attention,
    ConvNext,
    Layer,
    Patches,
    Pooled,
    Residual,
    conv,
    images,
    make,
    planned,
)


def groups(plan):
    return {group.name: (group.kind, group.size, group.block) for group in plan.groups}


def blocks(plan):
    return [(block.module, block.input, block.output, block.stride, block.droppable) for block in plan.blocks]


def test_the_shipped_teacher():
    stages = [{"depth": 1, "width": 32}, {"depth": 1, "width": 64}, {"depth": 1, "width": 128}]
    plan = find_plan(resnet.build(stem=32, stages=stages, input_shape=(1, 28, 28)), (1, 28, 28))
    assert groups(plan) == {
        "stem.0": ("channels", 32, None),
        "blocks.0.body.0": ("channels", 32, 0),
        "blocks.1.body.0": ("channels", 64, 1),
        "blocks.1.body.3": ("channels", 64, None),
        "blocks.2.body.0": ("channels", 128, 2),
        "blocks.2.body.3": ("channels", 128, None),
    }
    assert blocks(plan) == [
        ("blocks.0", "stem.0", "stem.0", 1, True),
        ("blocks.1", "stem.0", "blocks.1.body.3", 2, False),
        ("blocks.2", "blocks.1.body.3", "blocks.2.body.3", 2, False),
    ]
    assert plan.unpruned == ()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_teacher_is_not_changed(name):
    module = make(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    random = torch.get_rng_state()
    find_plan(module, SHAPE)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in module.parameters())
    assert not any(part.training for part in module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_the_data_are_never_cut(name):
    module, plan = planned(name)
    heads = [part for part in module.modules() if isinstance(part, nn.Linear) and part.out_features == CLASSES]
    for group in plan.groups:
        for slot in group.slots:
            part = dict(module.named_modules()).get(slot.module)
            assert not (slot.side == "out" and any(part is head for head in heads))
            assert not (slot.side == "in" and isinstance(part, nn.Conv2d) and part.in_channels == SHAPE[0])


def test_inputs_behind_a_flatten_belong_to_the_channel_before_it():
    _, plan = planned("flattening")
    slots = {slot.module: slot.indices for slot in plan.group("features.2.0").slots}
    assert slots["classifier.0"][:2] == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_channels_behind_a_concatenation_have_an_offset():
    _, plan = planned("concatenating")
    slots = {slot.module: slot.indices for slot in plan.group("blocks.0.body.2").slots}
    assert slots["blocks.1.body.2"][0] == (16,)
    assert plan.blocks[1].input is None
    assert plan.blocks[1].inputs == 0


def test_grouped_convolutions_are_cut_by_groups():
    _, plan = planned("grouped")
    group = plan.group("blocks.0.body.0.0")
    assert (group.size, group.block) == (8, 0)
    assert {slot.module: slot.indices[0] for slot in group.slots}["blocks.0.body.1.0"] == (0, 1, 2, 3)


def test_gates_are_cut_with_the_channels_that_they_multiply():
    _, plan = planned("gated")
    assert plan.group("blocks.0.first").slots[0].indices[0] == (0, 16)
    _, plan = planned("mobile")
    assert {"blocks.1.body.6.gate.0", "blocks.1.body.6.gate.2"} <= {
        slot.module for slot in (*plan.group("blocks.1.body.0").slots, *plan.group("blocks.1.body.6.gate.0").slots)
    }


@pytest.mark.parametrize("name", ["transformer", "post_norm", "own_attention"])
def test_transformers_have_heads_neurons_and_a_width(name):
    _, plan = planned(name)
    assert [(group.kind, group.size) for group in plan.shared] == [("channels", 32)]
    for index, block in enumerate(plan.blocks):
        assert [(group.kind, group.size > 4) for group in plan.inner(index)] == [("heads", False), ("neurons", True)]
        assert block.droppable
        assert block.tokens


def test_layer_scales_and_positions_are_cut_with_the_width():
    _, plan = planned("layer_norm")
    assert {"blocks.0.scale", "blocks.0.norm"} <= {slot.module for slot in plan.group("stem").slots}
    _, plan = planned("transformer")
    assert {"embed.position", "embed.token"} <= {slot.module for slot in plan.group("embed.patch").slots}


def test_groups_that_cannot_be_cut_stay_unpruned_and_are_reported():
    _, plan = planned("shuffling")
    assert [each.module for each in plan.unpruned] == ["stem.0"]
    assert "something else" in plan.unpruned[0].reason
    assert [group.name for group in plan.groups] == ["blocks.1.0"]


class OverChannels(nn.Module):
    def forward(self, x):
        return x / x.abs().mean(1, keepdim=True)


def test_custom_statistics_over_channels_are_not_cut():
    body = nn.Sequential(conv(16, 16), OverChannels(), conv(16, 16))
    plan = find_plan(Pooled(conv(3, 16), [Residual(body)], 16), SHAPE)
    assert [each.module for each in plan.unpruned] == ["blocks.0.body.0.0"]
    assert "stem.0" in groups(plan)


def test_a_network_that_hard_codes_its_width_stays_unpruned():
    class Fixed(Pooled):
        def forward(self, x):
            return self.head(self.blocks(self.stem(x)).view(-1, 16, 64).mean(2))

    plan = find_plan(Fixed(conv(3, 16), [Residual(conv(16, 8).append(conv(8, 16)))], 16), SHAPE)
    assert [each.module for each in plan.unpruned] == ["stem.0"]
    assert "does not run" in plan.unpruned[0].reason
    assert groups(plan) == {"blocks.0.body.0": ("channels", 8, 0)}
    assert plan.blocks[0].droppable  # its width is not cut, so that it can be skipped


def test_units_without_effect_on_the_output_are_not_verified():
    class Zero(nn.Module):
        def forward(self, x):
            return 0 * x

    body = nn.Sequential(conv(16, 8), conv(8, 16), Zero())
    plan = find_plan(Pooled(conv(3, 16), [Residual(body)], 16), SHAPE)
    assert [(each.module, "no effect" in each.reason) for each in plan.unpruned] == [("blocks.0.body.0.0", True)]


def test_zero_weights_hide_no_dependency():
    module = make("residual")
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.zero_()
    assert find_plan(module, SHAPE) == planned("residual")[1]


def test_a_shared_weight_is_cut_in_both_layers():
    module = Pooled(conv(3, 16), [Residual(conv(16, 16)), Residual(conv(16, 16))], 16)
    module.blocks[1].body[0].weight = module.blocks[0].body[0].weight
    assert "stem.0" in groups(find_plan(module, SHAPE))
    apart = Pooled(conv(3, 16), [conv(16, 16), conv(16, 16)], 16)
    apart.blocks[1][0].weight = apart.blocks[0][0].weight
    plan = find_plan(apart, SHAPE)
    assert plan.unpruned == ()
    assert groups(plan) == {"stem.0": ("channels", 16, None)}


def test_blocks_of_stages_are_found():
    def stage(inputs, outputs):
        return nn.Sequential(conv(inputs, outputs, stride=2), Residual(conv(outputs, outputs)))

    module = Pooled(conv(3, 16), [stage(16, 24), stage(24, 32)], 32)
    assert [block.module for block in find_plan(module, SHAPE).blocks] == [
        "blocks.0.0",
        "blocks.0.1",
        "blocks.1.0",
        "blocks.1.1",
    ]


def test_a_branch_beside_a_residual_is_not_droppable():
    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 16, 4, 4)
            self.layers = nn.ModuleList(Attention(16, 2) for _ in range(2))
            self.head = nn.Linear(16, CLASSES)

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2)
            for layer in self.layers:
                x = x + layer(x)
            return self.head(x.mean(1))

    plan = find_plan(Outside(), SHAPE)
    assert [block.droppable for block in plan.blocks] == [False, False]
    assert [block.input for block in plan.blocks] == ["embed", "embed"]


class Returning(nn.Module):
    """A transformer whose layers return tuples of ``values`` values, as those of Hugging Face do."""

    def __init__(self, values):
        super().__init__()
        self.embed, self.head, self.values = Patches(16), nn.Linear(16, CLASSES), values
        self.layers = nn.ModuleList(Returns(16, 2, values) for _ in range(2))

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x, *_others = layer(x)
            assert len(_others) == self.values - 1
        return self.head(x.mean(1))


class Returns(Layer):
    def __init__(self, width, heads, values):
        super().__init__(width, heads)
        self.values = values

    def forward(self, x):
        return (super().forward(x), *[x.mean()] * (self.values - 1))


@pytest.mark.parametrize(
    ("block", "size", "makes", "reads", "passes"),
    [
        (lambda: Residual(conv(8, 6).append(conv(6, 8))), 6, "1.0.body.0", "1.0.body.3.0", ["1.0.body.1"]),
        (lambda: ConvNext(8), 16, "1.0.up", "1.0.down", []),
    ],
    ids=["batch norm", "layer norm"],
)
def test_deep_networks_are_verified_up_to_the_first_block(block, size, makes, reads, passes):
    """If each block doubled the variance, the first would have no measurable effect on the output."""
    stack = nn.Sequential(*(block() for _ in range(70)))
    module = nn.Sequential(nn.Conv2d(3, 8, 1), stack, Mean(), nn.Linear(8, CLASSES)).eval()
    indices = tuple((unit,) for unit in range(size))
    slots = [Slot(name, "out", indices) for name in (makes, *passes)]
    verifier = Verifier(module, SHAPE, {})
    assert verifier.check_groups(Group(makes, "neurons", size, (*slots, Slot(reads, "in", indices)), 0)).reason is None
    turned = Slot(reads, "in", indices[::-1])
    assert "something else" in str(verifier.check_groups(Group(makes, "neurons", size, (*slots, turned), 0)).reason)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(tuple(range(2, x.dim())))


def test_sequences_and_volumes():
    def line(inputs, outputs):
        return nn.Sequential(nn.Conv1d(inputs, outputs, 3, padding=1), nn.BatchNorm1d(outputs), nn.ReLU())

    module = nn.Sequential(line(3, 16), Residual(line(16, 16)), line(16, 24), Mean(), nn.Linear(24, CLASSES))
    plan = find_plan(module, (3, 12))
    assert [group.size for group in plan.groups] == [16, 24]
    assert blocks(plan)[1:] == [("1", "0.0", "0.0", 1, True), ("2", "0.0", "2.0", 1, False)]
    assert [(block.tokens, block.dims) for block in plan.blocks] == [(False, 1)] * 3
    with pytest.raises(SpaceError, match="'separable' fits no block"):
        CutSpace.from_plan(plan, replacements=["separable"])

    def box(inputs, outputs):
        return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU())

    module = nn.Sequential(box(1, 16), Residual(box(16, 16)), Mean(), nn.Linear(16, CLASSES))
    plan = find_plan(module, (1, 4, 4, 4))
    assert blocks(plan)[1] == ("1", "0.0", "0.0", 1, True)
    assert plan.blocks[1].dims == 3


def test_strides_are_those_of_padded_convolutions():
    def stride(*layers, size=8):
        module = nn.Sequential(conv(3, 16), nn.Sequential(*layers), Mean(), nn.Linear(16, CLASSES))
        return find_plan(module, (3, size, size)).blocks[1].stride

    assert stride(conv(16, 16)) == 1
    assert stride(conv(16, 16, stride=2)) == 2
    assert stride(conv(16, 16, stride=2), size=7) == 2
    assert stride(conv(16, 16), nn.MaxPool2d(4)) == 4
    assert stride(conv(16, 16), nn.MaxPool2d(2), size=7) == 0  # 3 of 7 pixels, where a convolution makes 4
    assert stride(nn.Conv2d(16, 16, 3), nn.ReLU()) == 0
    assert stride(conv(16, 16), nn.Upsample(scale_factor=2)) == 0


def test_a_network_that_changes_its_input_in_place():
    class Centring(nn.Module):
        def forward(self, x):
            return x.sub_(0.5)

    module = nn.Sequential(Centring(), conv(3, 16), conv(16, 16), Mean(), nn.Linear(16, CLASSES))
    assert list(groups(find_plan(module, SHAPE))) == ["1.0", "2.0"]


def test_a_module_of_several_tensors_is_not_a_block():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = conv(16, 16), conv(16, 16)

        def forward(self, pair):
            return [self.one(pair[0]), self.other(pair[1])]

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(conv(3, 16))
            self.stages = nn.Sequential(Both(), Both())
            self.head = nn.Linear(16, CLASSES)

        def forward(self, x):
            x = self.stem(x)
            return self.head(sum(self.stages([x, x])).mean((2, 3)))

    assert [block.module for block in find_plan(Two(), SHAPE).blocks] == ["stem.0"]
    with pytest.raises(SpaceError, match="with a tensor as its first argument"):
        find_plan(Two(), SHAPE, blocks=["stages.0"])


def test_blocks_that_return_tuples():
    module = Returning(1).eval()
    plan = find_plan(module, SHAPE)
    assert [(block.droppable, block.wrapped, block.outputs) for block in plan.blocks] == [(True, True, 16)] * 2
    both = prune(module, plan, KeptUnits({}, {0: "drop", 1: "linear"}))
    assert both(images()).shape == (2, CLASSES)


def test_blocks_that_return_several_values_are_not_droppable():
    plan = find_plan(Returning(2), SHAPE)
    assert [(block.droppable, block.outputs) for block in plan.blocks] == [(False, 0)] * 2
    assert [group.kind for group in plan.groups] == ["channels", "heads", "neurons", "heads", "neurons"]


def test_only_heads_are_cut_if_the_graph_cannot_be_read(monkeypatch):
    def fails(module, input_shape, until):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("nas_distill.pruning.discovery.read_graph", fails)
    plan = find_plan(make("transformer"), SHAPE)
    assert [group.kind for group in plan.groups] == ["heads"] * 3
    assert "cannot read its graph" in plan.unpruned[0].reason
    assert plan.unpruned[0].module == ""


def test_blocks_named_by_hand():
    module = make("residual")
    plan = find_plan(module, SHAPE, blocks=["blocks.1", "blocks.3"])
    assert [block.module for block in plan.blocks] == ["blocks.1", "blocks.3"]
    assert {group.block for group in plan.groups} == {None, 0, 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["block.1"], r"no module 'block\.1'; did you mean 'blocks\.1'\?"),
        ([], "is empty"),
        (["head"], "'head' is not a block"),
        (["blocks.3", "blocks.1"], r"'blocks\.1' does not come after 'blocks\.3'"),
        (["blocks", "blocks.1"], r"'blocks\.1' does not come after 'blocks'"),
    ],
)
def test_names_that_are_not_blocks(names, message):
    with pytest.raises(SpaceError, match=message):
        find_plan(make("residual"), SHAPE, blocks=names)


def test_a_network_without_a_backbone_has_groups_only():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, CLASSES)).eval()
    plan = find_plan(module, SHAPE)
    assert (groups(plan), plan.blocks) == ({"1": ("neurons", 32, None)}, ())
    space = CutSpace.from_plan(plan, depth=()).search_space(CutBuilder(module, plan))
    student = space.build(space.smallest(), input_shape=SHAPE, num_classes=CLASSES)
    assert student[1].out_features == student[3].in_features == 8
    assert student(images()).shape == (2, CLASSES)


class Attributes(nn.Module):
    """Convolutions as attributes of any name, called one after the other."""

    def __init__(self):
        super().__init__()
        self.conv3, self.norm = nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(16)
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.norm(self.conv2(x)))
        return self.head(functional.relu(self.conv3(x)).mean((2, 3)))


def test_a_chain_of_attributes_has_its_blocks_found_and_cut():
    plan = find_plan(Attributes(), SHAPE)
    assert [(block.module, block.input, block.output, block.stride) for block in plan.blocks] == [
        ("conv1", None, "conv1", 1),
        ("conv2", "conv1", "conv2", 1),
        ("conv3", "conv2", "conv3", 2),
    ]
    assert plan.unpruned == ()


def test_a_teacher_that_fails_on_its_data():
    with pytest.raises(SpaceError, match=r"can be found: The network .* fails on a batch"):
        find_plan(make("residual"), (5, 8, 8))


def test_a_teacher_that_cannot_be_copied():
    module = make("sequential")
    module.lock = open(__file__)  # noqa: PTH123, SIM115
    with pytest.raises(SpaceError, match="deepcopy"):
        find_plan(module, SHAPE)
    module.lock.close()


def test_a_network_that_fails_in_double_precision_is_verified_in_single():
    class Single(Pooled):
        def forward(self, x):
            return super().forward(x.float()) if next(self.parameters()).dtype == torch.float32 else 1 / 0

    module = Single(conv(3, 16), [Residual(conv(16, 16)), conv(16, 24)], 24)
    assert list(groups(find_plan(module, SHAPE))) == ["stem.0", "blocks.1.0"]


def test_a_plan_is_the_same_each_time():
    assert find_plan(make("mobile"), SHAPE) == planned("mobile")[1]
    trained = copy.deepcopy(make("mobile", seed=3))
    assert find_plan(trained, SHAPE) == planned("mobile")[1]


def test_loading_a_student_needs_no_torch_pruning():
    code = """
import sys, nas_distill.pruning.build, nas_distill.pruning.discovery
assert 'torch_pruning' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Tokens(nn.Module):
    """Reads integers, which samples contain as floats; noise is outside of its embedding table."""

    def __init__(self):
        super().__init__()
        self.table, self.positions = nn.Embedding(9, 16), nn.Embedding(5, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        positions = self.positions(torch.arange(x.shape[1], device=x.device))
        return self.head(self.blocks(self.table(x.long()) + positions).mean(1))


def test_a_network_that_reads_tokens_is_cut():
    plan = find_plan(Tokens(), (5,))
    assert [(group.kind, group.size) for group in plan.groups if group.block is None] == [("channels", 16)]
    assert [block.droppable for block in plan.blocks] == [True, True]
    assert plan.unpruned == ()
