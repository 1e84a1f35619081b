"""Who gives students the teacher's weights."""

import pytest
import torch

from nas_distill.config import FromTeacherConfig, TeacherSource
from nas_distill.cut.ancestor import make_ancestor
from nas_distill.cut.find import find_plan
from nas_distill.data import load_dataset
from nas_distill.evaluate.predict import predict_logits
from nas_distill.teacher import freeze, load_teacher
from tests.cut.networks import SHAPE, data_of, planned


@pytest.fixture(scope="module")
def data():
    return data_of(SHAPE, 160)


def ancestor_of(name, data, **options):
    module, plan = planned(name)
    return make_ancestor(freeze(module, data, "teacher"), plan, data, FromTeacherConfig(samples=128, **options))


def narrowed(plan):
    """Return the values that cut every group to a half."""
    inner = [[{"width": (group.size + 1) // 2} for group in plan.inner(index)] for index in range(len(plan.blocks))]
    return {
        "shared": [{"width": (group.size + 1) // 2} for group in plan.shared],
        "blocks": [{"inner": widths} for widths in inner],
    }


def test_heirs_of_a_real_teacher_that_make_up_for_what_they_lost_answer_as_it_does():
    data = load_dataset("fashion-mnist")
    teacher = load_teacher(TeacherSource(name="fashion-resnet"), data)
    plan = find_plan(teacher.module, data.input_shape)
    images = [data.batch("val", torch.arange(500))[0]]
    wanted = predict_logits(teacher.module, images).argmax(1)
    agreed = {}
    for reconstruct in (True, False):
        ancestor = make_ancestor(teacher, plan, data, FromTeacherConfig(samples=512, reconstruct=reconstruct))
        heir = ancestor.heir(narrowed(plan))
        ancestor.settle(heir)
        agreed[reconstruct] = float((predict_logits(heir, images).argmax(1) == wanted).double().mean())
    assert agreed[True] > agreed[False] + 0.2


def test_moments_are_measured_only_where_they_are_wanted(data):
    assert ancestor_of("residual", data).moments
    assert not ancestor_of("residual", data, reconstruct=False).moments


def test_the_teacher_stays_as_it_is(data):
    ancestor = ancestor_of("residual", data)
    before = {key: value.clone() for key, value in ancestor.module.state_dict().items()}
    ancestor.heir(narrowed(ancestor.plan))
    assert all(torch.equal(value, before[key]) for key, value in ancestor.module.state_dict().items())
