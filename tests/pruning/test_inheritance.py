from dataclasses import replace

import pytest
import torch

from nas_distill.config import FromTeacherConfig, TeacherSource
from nas_distill.data import load_dataset
from nas_distill.evaluate.predict import predict_logits
from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import make_inheritance
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.space import CutSpace
from nas_distill.teacher import freeze, load_teacher
from tests.pruning.networks import SHAPE, data_of, planned


@pytest.fixture(scope="module")
def data():
    return data_of(SHAPE, 160)


def inheritance_of(name, data, **options):
    module, plan = planned(name)
    return make_inheritance(
        freeze(module, data, "teacher"), CutSpace.from_plan(plan), data, FromTeacherConfig(samples=128, **options)
    )


def narrowed(plan):
    """Return the cut of every group to half of its units."""
    return Cut.of(plan, {group.name: (group.size + 1) // 2 for group in plan.groups})


def test_reconstructed_students_agree_more_with_a_real_teacher():
    data = load_dataset("fashion-mnist")
    teacher = load_teacher(TeacherSource(name="fashion-resnet"), data)
    plan = find_plan(teacher.module, data.input_shape)
    images = [data.batch("val", torch.arange(500))[0]]
    wanted = predict_logits(teacher.module, images).argmax(1)
    agreed = {}
    for reconstruct in (True, False):
        inheritance = make_inheritance(
            teacher, CutSpace.from_plan(plan), data, FromTeacherConfig(samples=512, reconstruct=reconstruct)
        )
        pruned = inheritance.pruned_teacher(narrowed(plan))
        inheritance.recalibrate_batch_norm(pruned)
        agreed[reconstruct] = float((predict_logits(pruned, images).argmax(1) == wanted).double().mean())
    assert agreed[True] > agreed[False] + 0.2


def test_moments_are_measured_only_for_reconstruction(data):
    assert inheritance_of("residual", data).moments
    assert not inheritance_of("residual", data, reconstruct=False).moments


def test_inheritance_does_not_change_the_teacher(data):
    inheritance = inheritance_of("residual", data)
    before = {key: value.clone() for key, value in inheritance.module.state_dict().items()}
    inheritance.pruned_teacher(narrowed(inheritance.plan))
    assert all(torch.equal(value, before[key]) for key, value in inheritance.module.state_dict().items())


def test_a_student_inherits_unless_it_starts_from_random_weights(data):
    module, plan = planned("residual")
    space = CutSpace.from_plan(plan, start="both")
    teacher = freeze(module, data, "teacher")
    inheritance = make_inheritance(teacher, space, data, FromTeacherConfig(samples=128))
    builder = CutBuilder(module, plan)
    for start, same in (("inherited", True), ("random", False)):
        cut = replace(space.unpruned, start=start)
        student = builder(**space.encode(cut).to_dict())
        assert inheritance.inherit(student, cut) is same
        assert torch.equal(student.stem[0].weight, teacher.module.stem[0].weight) is same
