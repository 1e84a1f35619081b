from dataclasses import replace

import pytest
import torch
from torch import nn

from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.graph import read_graph
from nas_distill.pruning.groups import form_groups
from nas_distill.pruning.plan import Block, Group, Slot, Unpruned
from nas_distill.pruning.verification import Verification, Verifier, verify_groups
from tests.pruning.networks import SHAPE, Pooled, Residual, conv, make, planned


def verifier(name):
    module, plan = planned(name)
    return Verifier(module, SHAPE, {block.module: -1 if block.tokens else 1 for block in plan.blocks}), plan


def identity(size):
    return tuple((unit,) for unit in range(size))


@pytest.mark.parametrize("name", ["residual", "mobile", "transformer", "grouped"])
def test_correct_groups_are_verified(name):
    checker, plan = verifier(name)
    assert all(checker.check_groups(group).reason is None for group in plan.groups)
    assert checker.check_groups(*plan.groups, share=0.1).reason is None


@pytest.mark.parametrize("missing", range(7))
def test_a_group_that_misses_a_dimension_fails(missing):
    """The width of a stem: two convolutions make it, two norms pass it on, three layers read it."""
    checker, plan = verifier("grouped")
    group = plan.group("stem.0")
    slots = [slot for index, slot in enumerate(group.slots) if index != missing]
    if missing < len(group.slots):
        assert checker.check_groups(replace(group, slots=tuple(slots))).reason is not None


def test_a_group_with_permuted_indices_fails():
    checker, plan = verifier("residual")
    group = plan.group("blocks.0.body.0")
    slots = [replace(slot, indices=slot.indices[::-1]) if slot.side == "in" else slot for slot in group.slots]
    assert "something else" in str(checker.check_groups(replace(group, slots=tuple(slots))).reason)


def test_heads_of_mixed_channels_fail():
    checker, plan = verifier("transformer")
    heads = plan.group("encoder.layers.0.self_attn")
    assert checker.check_groups(heads).reason is None
    mixed = tuple((*one[:-1], other[-1]) for one, other in zip(heads.slots[0].indices, heads.slots[0].indices[1:]))
    broken = Group(heads.name, "heads", 3, (replace(heads.slots[0], indices=mixed), heads.slots[1]), 0)
    assert checker.check_groups(broken).reason is not None


def test_groups_of_the_output_are_reported_as_such():
    checker, _ = verifier("residual")
    head = Group("head.linear", "neurons", 5, (Slot("head.linear", "out", identity(5)),), None)
    assert checker.check_groups(head).output


def test_boundaries_narrowed_by_a_group():
    checker, _ = verifier("residual")
    _, plan = planned("residual")
    assert checker.check_groups(plan.group("stem.0")).narrowed == {
        "blocks.0": (True, True),
        "blocks.1": (True, True),
        "blocks.2": (True, None),
        "blocks.3": (None, None),
    }


def test_a_boundary_of_several_groups_is_not_aligned():
    checker, plan = verifier("concatenating")
    first, second = plan.group("stem.0"), plan.group("blocks.0.body.2")
    assert checker.check_groups(first).narrowed["blocks.1"] == (False, False)
    assert checker.check_groups(second).narrowed["blocks.1"][0] is not None


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
            Slot("blocks.1.0", "in", tuple((8 + index // 2 if index % 2 == 0 else index // 2,) for index in range(16))),
        ),
        None,
    )
    result = Verifier(module, SHAPE, {"blocks.0": 1, "blocks.1": 1}).check_groups(group)
    if result.reason is None:  # true only if as many even as odd channels are kept
        assert result.narrowed["blocks.1"][0] is False


def test_drops():
    checker, plan = verifier("residual")
    assert checker.check_drops([block for block in plan.blocks if block.droppable], plan.groups)
    changing = Block("blocks.2", True, None, None, 1)
    assert not checker.check_drops([changing], ())


def test_a_drop_must_run_with_narrowed_layers_around_it():
    module = Pooled(conv(3, 16), [conv(16, 16), Residual(conv(16, 16))], 16).eval()
    checker = Verifier(module, SHAPE, {"blocks.0": 1, "blocks.1": 1})
    group = Group("stem.0", "channels", 16, tuple(Slot(*slot, identity(16)) for slot in STEM), None)
    assert checker.check_groups(group).reason is None
    assert checker.check_drops([Block("blocks.0", True, None, None, 1)], ())
    assert not checker.check_drops([Block("blocks.0", True, None, None, 1)], [group])


STEM = (("stem.0", "out"), ("stem.1", "out"), ("blocks.0.0", "in"))


def group(name, size=4):
    return Group(name, "neurons", size, (Slot(name, "out", tuple((unit,) for unit in range(size))),), None)


class FakeVerifier:
    """A fake verifier with results by the names of groups, and pairs of names that fail together."""

    def __init__(self, reasons=None, apart=(), output=()):
        self.reasons, self.apart, self.output = reasons or {}, apart, output
        self.shares = []

    def check_groups(self, *groups, share=0.5):
        names = {one.name for one in groups}
        if len(groups) > 1:
            self.shares.append(share)
            return Verification("they clash" if any(pair <= names for pair in self.apart) else None)
        (name,) = names
        return Verification(self.reasons.get(name), name in self.output, {"block": (True, None)} if name == "a" else {})


def test_verified_groups_keep_their_boundaries_and_others_stay_unpruned():
    fake = FakeVerifier(reasons={"b": "it breaks", "out": "its units are the network's output"}, output=("out",))
    a, c = group("a"), group("c")
    verified, boundaries, unpruned = verify_groups(nn.Identity(), [a, group("b"), c, group("out")], fake)
    assert verified == [a, c]
    assert boundaries == {"a": {"block": (True, None)}, "c": {}}
    assert unpruned == [Unpruned("b", "it breaks")]  # the output is not reported


def test_all_groups_are_checked_jointly_at_half_and_at_a_single_unit():
    fake = FakeVerifier()
    verify_groups(nn.Identity(), [group("a"), group("b")], fake)
    assert fake.shares == [0.5, 0.01]


def test_of_two_conflicting_groups_the_later_stays_unpruned():
    a, b, c, d = (group(name) for name in "abcd")
    verified, _, unpruned = verify_groups(nn.Identity(), [a, b, c, d], FakeVerifier(apart=[{"a", "c"}]))
    assert verified == [a, b, d]
    assert unpruned == [Unpruned("c", "it can be cut by itself, but not beside other groups: they clash")]


def test_no_proposals_yield_no_groups():
    assert verify_groups(nn.Identity(), [], FakeVerifier()) == ([], {}, [])


def attention(reasons):
    module = nn.Module()
    module.attention = nn.Module()
    module.attention.num_heads = 2
    module.attention.query, module.attention.value = nn.Linear(4, 4), nn.Linear(4, 4)
    return module, FakeVerifier(reasons={"attention.query": "it breaks", "attention.value": "so does it", **reasons})


def test_neurons_that_fail_are_checker_as_heads_once():
    module, fake = attention({})
    verified, boundaries, unpruned = verify_groups(module, [group("attention.query"), group("attention.value")], fake)
    assert [(one.name, one.kind, one.size) for one in verified] == [("attention", "heads", 2)]
    assert list(boundaries) == ["attention"]
    assert unpruned == [Unpruned("attention.value", "so does it")]


def test_heads_that_fail_too_stay_unpruned():
    module, fake = attention({"attention": "nor do heads"})
    assert verify_groups(module, [group("attention.query")], fake) == ([], {}, [Unpruned("attention", "nor do heads")])


def test_heads_of_custom_attention_are_verified_where_neurons_fail():
    module = make("own_attention")
    unions = read_graph(make("own_attention"), SHAPE)[0]
    names = {name: position for position, (name, _) in enumerate(module.named_modules())}
    proposed = [one for one in form_groups(module, unions, names) if one.name.startswith("layers.0.attention")]
    verified, _, unpruned = verify_groups(module, proposed, Verifier(module, SHAPE, {}))
    assert {one.kind for one in proposed} == {"neurons"}
    assert [(one.name, one.kind, one.size) for one in verified] == [("layers.0.attention", "heads", 4)]
    assert unpruned == []


class Fixed(nn.Module):
    """Hard-codes its width, so that the layers before it cannot be cut."""

    def forward(self, x):
        return x.reshape(-1, 8, 8, 8)


@pytest.mark.parametrize("bad", [None, 3])
def test_joint_verification_equals_separate_verification(monkeypatch, bad):
    def block(index):
        inside = [conv(16, 8), Fixed()] if index == bad else [conv(16, 8)]
        return Residual(nn.Sequential(*inside, conv(8, 12), conv(12, 16)))

    module = Pooled(conv(3, 16), [block(index) for index in range(6)], 16)
    runs = []
    check_groups = Verifier.check_groups
    monkeypatch.setattr(
        Verifier, "check_groups", lambda *args, **options: runs.append(args) or check_groups(*args, **options)
    )
    jointly = find_plan(module, SHAPE)
    many = len(runs)
    monkeypatch.setattr("nas_distill.pruning.verification._verify_inner", lambda *_: set())
    assert find_plan(module, SHAPE) == jointly
    assert bad is not None or many < len(runs) - many
    assert len(jointly.unpruned) == (bad is not None)
