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
def test_groups_that_hold(name):
    tried, plan = verifier(name)
    assert all(tried.check_groups(group).reason is None for group in plan.groups)
    assert tried.check_groups(*plan.groups, share=0.1).reason is None


@pytest.mark.parametrize("missing", range(7))
def test_a_group_that_misses_a_dimension_does_not_hold(missing):
    """Of a stem's width: two convolutions make it, two norms pass it on, three layers read it."""
    tried, plan = verifier("grouped")
    group = plan.group("stem.0")
    slots = [slot for index, slot in enumerate(group.slots) if index != missing]
    if missing < len(group.slots):
        assert tried.check_groups(replace(group, slots=tuple(slots))).reason is not None


def test_a_group_that_mixes_up_places_does_not_hold():
    tried, plan = verifier("residual")
    group = plan.group("blocks.0.body.0")
    slots = [replace(slot, indices=slot.indices[::-1]) if slot.side == "in" else slot for slot in group.slots]
    assert "something else" in str(tried.check_groups(replace(group, slots=tuple(slots))).reason)


def test_heads_are_not_any_runs_of_channels():
    tried, plan = verifier("transformer")
    heads = plan.group("encoder.layers.0.self_attn")
    assert tried.check_groups(heads).reason is None
    mixed = tuple((*one[:-1], other[-1]) for one, other in zip(heads.slots[0].indices, heads.slots[0].indices[1:]))
    broken = Group(heads.name, "heads", 3, (replace(heads.slots[0], indices=mixed), heads.slots[1]), 0)
    assert tried.check_groups(broken).reason is not None


def test_the_output_is_told_apart():
    tried, _ = verifier("residual")
    head = Group("head.linear", "neurons", 5, (Slot("head.linear", "out", identity(5)),), None)
    assert tried.check_groups(head).output


def test_boundaries_say_whose_channels_pass():
    tried, _ = verifier("residual")
    _, plan = planned("residual")
    assert tried.check_groups(plan.group("stem.0")).narrowed == {
        "blocks.0": (True, True),
        "blocks.1": (True, True),
        "blocks.2": (True, None),
        "blocks.3": (None, None),
    }


def test_a_boundary_of_several_groups_is_not_that_of_one():
    tried, plan = verifier("concatenating")
    first, second = plan.group("stem.0"), plan.group("blocks.0.body.2")
    assert tried.check_groups(first).narrowed["blocks.1"] == (False, False)
    assert tried.check_groups(second).narrowed["blocks.1"][0] is not None


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
    verdict = Verifier(module, SHAPE, {"blocks.0": 1, "blocks.1": 1}).check_groups(group)
    if verdict.reason is None:  # it holds only where as many even as odd channels stay
        assert verdict.narrowed["blocks.1"][0] is False


def test_drops():
    tried, plan = verifier("residual")
    assert tried.check_drops([block for block in plan.blocks if block.droppable], plan.groups)
    changing = Block("blocks.2", True, None, None, 1)
    assert not tried.check_drops([changing], ())


def test_a_dropped_block_must_fit_what_is_cut_around_it():
    module = Pooled(conv(3, 16), [conv(16, 16), Residual(conv(16, 16))], 16).eval()
    tried = Verifier(module, SHAPE, {"blocks.0": 1, "blocks.1": 1})
    group = Group("stem.0", "channels", 16, tuple(Slot(*slot, identity(16)) for slot in STEM), None)
    assert tried.check_groups(group).reason is None
    assert tried.check_drops([Block("blocks.0", True, None, None, 1)], ())
    assert not tried.check_drops([Block("blocks.0", True, None, None, 1)], [group])


STEM = (("stem.0", "out"), ("stem.1", "out"), ("blocks.0.0", "in"))


def group(name, size=4):
    return Group(name, "neurons", size, (Slot(name, "out", tuple((unit,) for unit in range(size))),), None)


class Judge:
    """Stands in for a verifier: knows by name what fails, and which names do not go together."""

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


def test_what_holds_is_kept_with_its_boundaries_and_the_rest_is_left_whole():
    judge = Judge(reasons={"b": "it breaks", "out": "its units are the network's output"}, output=("out",))
    a, c = group("a"), group("c")
    good, boundaries, whole = verify_groups(nn.Identity(), [a, group("b"), c, group("out")], judge)
    assert good == [a, c]
    assert boundaries == {"a": {"block": (True, None)}, "c": {}}
    assert whole == [Unpruned("b", "it breaks")]  # nobody expects the output to be cut, so of it nothing is said


def test_all_are_tried_at_once_at_a_half_and_at_a_single_unit():
    judge = Judge()
    verify_groups(nn.Identity(), [group("a"), group("b")], judge)
    assert judge.shares == [0.5, 0.01]


def test_of_two_that_clash_the_later_is_left_whole_and_others_are_not():
    a, b, c, d = (group(name) for name in "abcd")
    good, _, whole = verify_groups(nn.Identity(), [a, b, c, d], Judge(apart=[{"a", "c"}]))
    assert good == [a, b, d]
    assert whole == [Unpruned("c", "it can be cut by itself, but not beside other groups: they clash")]


def test_nothing_proposed_proves_nothing():
    assert verify_groups(nn.Identity(), [], Judge()) == ([], {}, [])


def attention(reasons):
    module = nn.Module()
    module.attention = nn.Module()
    module.attention.num_heads = 2
    module.attention.query, module.attention.value = nn.Linear(4, 4), nn.Linear(4, 4)
    return module, Judge(reasons={"attention.query": "it breaks", "attention.value": "so does it", **reasons})


def test_neurons_that_do_not_hold_are_tried_as_heads_once():
    module, judge = attention({})
    good, boundaries, whole = verify_groups(module, [group("attention.query"), group("attention.value")], judge)
    assert [(one.name, one.kind, one.size) for one in good] == [("attention", "heads", 2)]
    assert list(boundaries) == ["attention"]
    assert whole == [Unpruned("attention.value", "so does it")]


def test_heads_that_do_not_hold_either_are_what_is_left_whole():
    module, judge = attention({"attention": "nor do heads"})
    assert verify_groups(module, [group("attention.query")], judge) == ([], {}, [Unpruned("attention", "nor do heads")])


def test_heads_of_ones_own_attention_hold_where_its_neurons_do_not():
    module = make("own_attention")
    unions = read_graph(make("own_attention"), SHAPE)[0]
    names = {name: place for place, (name, _) in enumerate(module.named_modules())}
    proposed = [one for one in form_groups(module, unions, names) if one.name.startswith("layers.0.attention")]
    good, _, whole = verify_groups(module, proposed, Verifier(module, SHAPE, {}))
    assert {one.kind for one in proposed} == {"neurons"}
    assert [(one.name, one.kind, one.size) for one in good] == [("layers.0.attention", "heads", 4)]
    assert whole == []


class Fixed(nn.Module):
    """Keeps its width as a number in its code, so that what comes before it cannot be cut."""

    def forward(self, x):
        return x.reshape(-1, 8, 8, 8)


@pytest.mark.parametrize("bad", [None, 3])
def test_groups_proven_many_at_a_time_are_those_proven_one_by_one(monkeypatch, bad):
    def block(index):
        inside = [conv(16, 8), Fixed()] if index == bad else [conv(16, 8)]
        return Residual(nn.Sequential(*inside, conv(8, 12), conv(12, 16)))

    module = Pooled(conv(3, 16), [block(index) for index in range(6)], 16)
    runs = []
    check_groups = Verifier.check_groups
    monkeypatch.setattr(
        Verifier, "check_groups", lambda *args, **options: runs.append(args) or check_groups(*args, **options)
    )
    together = find_plan(module, SHAPE)
    many = len(runs)
    monkeypatch.setattr("nas_distill.pruning.verification._verified_together", lambda *_: set())
    assert find_plan(module, SHAPE) == together
    assert bad is not None or many < len(runs) - many
    assert len(together.unpruned) == (bad is not None)
