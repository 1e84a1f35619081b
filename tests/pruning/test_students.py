"""Random students of many networks: building, running, training, costs and export."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nas_distill.costs import count
from nas_distill.costs.runtimes.onnx_runtime import export_onnx
from nas_distill.export.parity import verify_export
from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.surgery import prune
from nas_distill.utils.seeds import seeded_torch
from tests.pruning.networks import CLASSES, NETWORKS, SHAPE, images, planned


def cuts_of(name, **options):
    _, plan = planned(name)
    kinds = sorted(
        {"linear" if block.tokens else "separable" for block in plan.blocks if block.inputs and block.outputs}
    )
    return CutSpace.from_plan(plan, multiple=2, replacements=kinds, **options)


def space_of(name, **options):
    return cuts_of(name, **options).search_space(CutBuilder(*planned(name)))


def student_of(name, architecture):
    with seeded_torch(0, "student"):
        return space_of(name).build(architecture, input_shape=SHAPE, num_classes=CLASSES)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_largest_architecture_is_the_teacher(name):
    module, plan = planned(name)
    pruned = prune(copy.deepcopy(module), plan, cuts_of(name).decode(space_of(name).largest()).units(plan))
    assert torch.equal(pruned(images()), module(images()))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 10**6))
def test_random_students_run_train_and_inherit(name, seed):
    module, plan = planned(name)
    space = space_of(name)
    architecture = space.sample(np.random.default_rng(seed))
    student = student_of(name, architecture)
    before = [weight.detach().clone() for weight in student.parameters()]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    functional.cross_entropy(student(images(4)), torch.arange(4) % CLASSES).backward()
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, student.parameters()))
    assert student.eval()(images()).shape == (2, CLASSES)
    # The pruned teacher has the same weights under the same names.
    pruned = prune(copy.deepcopy(module), plan, cuts_of(name).decode(architecture).units(plan))
    student.load_state_dict(pruned.requires_grad_(True).state_dict())
    assert torch.equal(student(images()), pruned(images()))


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_of_students_are_counted_and_fall_with_cuts(name):
    space = space_of(name)
    small, large = (
        count(student_of(name, one), SHAPE, ("params", "flops")) for one in (space.smallest(), space.largest())
    )
    module, _ = planned(name)
    assert large == count(module, SHAPE, ("params", "flops"))
    assert 0 < small["params"] < large["params"]
    assert 0 < small["flops"] < large["flops"]


def exports(name, folder, seed):
    space = space_of(name)
    student = student_of(name, space.sample(np.random.default_rng(seed))).eval()
    path = folder / "student.onnx"
    export_onnx(student, SHAPE, path)
    verify_export(path, student, images(4))


@pytest.mark.parametrize("name", ["mobile", "transformer"])
def test_students_are_exported(name, tmp_path):
    exports(name, tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_random_students_are_exported(name, seed, tmp_path):
    exports(name, tmp_path, seed)
