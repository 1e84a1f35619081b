from __future__ import annotations

import pytest
import torch

from nas_distill.blockwise.modules import kept_channels, make_modules


@pytest.mark.parametrize("name", ["residual", "mobile", "transformer", "grouped norms", "concatenating"])
def test_an_alternative_equals_the_block_of_an_inheriting_student(make_case, name):
    case = make_case(name)
    found = case.alternatives()
    modules = make_modules(found, case.inheritance, seed=0)
    assert modules.keys() == {entry.key for entry in found.entries}
    for entry in found.entries[:: max(1, len(found.entries) // 12)]:
        pruned = case.inheritance.pruned_teacher(found.partial_cut({entry.block: entry}, found.widths(entry)))
        block = pruned.get_submodule(found.plan.blocks[entry.block].module).state_dict()
        own = modules[entry.key].state_dict()
        assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in block.items()}
        if entry.replacement == "whole":
            assert all(torch.equal(own[key], value) for key, value in block.items())


def test_random_weights_depend_on_the_seed(residual):
    found = residual.alternatives()
    first, again, other = (make_modules(found, residual.inheritance, seed=seed) for seed in (0, 0, 1))
    key = next(entry.key for entry in found.entries if entry.replacement == "separable")
    weights = [next(modules[key].parameters()) for modules in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_most_important_channels_are_kept_at_inputs_and_outputs(residual):
    ends = kept_channels(residual.alternatives(), residual.inheritance)
    orders = residual.inheritance.orders
    kept = ends["block2-whole-in4-out8-4"]
    assert kept.input.tolist() == sorted(orders["stem.0"][:4])
    assert kept.output.tolist() == sorted(orders["blocks.2.body.3"][:8])
    assert ends["block2-whole-in8-out16-16"].input is None


def test_a_unit_may_have_several_channels(make_case):
    case = make_case("grouped norms")
    kept = kept_channels(case.alternatives(), case.inheritance)
    order = case.inheritance.orders["blocks.0.0"]
    (given,) = {tuple(kept[f"block1-whole-in4-out{width}"].input.tolist()) for width in (2, 4)}
    assert given == tuple(channel for unit in sorted(order[:4]) for channel in (2 * unit, 2 * unit + 1))
