import math
import pickle
import sys

import pytest
import torch
from torch import nn

from nas_distill.export.student import load_spec, load_student, save_student
from nas_distill.models import resnet
from nas_distill.pruning.build import CutBuilder, build, redraw
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.space import CutSpace
from nas_distill.utils.errors import BuildError, ConfigError, SpaceError
from nas_distill.utils.seeds import seeded_torch
from tests.pruning.networks import CLASSES, SHAPE, images, planned

ARGUMENTS = {"stem": 16, "stages": [{"depth": 2, "width": 16}, {"depth": 1, "width": 24}]}


@pytest.fixture(scope="module")
def plan():
    return find_plan(resnet.build(**ARGUMENTS, input_shape=SHAPE, num_classes=CLASSES), SHAPE)


def keywords(plan, **values):
    return {
        "teacher": "nas_distill.models.resnet:build",
        "arguments": ARGUMENTS,
        "plan": plan.to_dict(),
        "input_shape": SHAPE,
        "num_classes": CLASSES,
        **values,
    }


def space_of(plan):
    fixed = {key: keywords(plan)[key] for key in ("teacher", "arguments", "plan")}
    cuts = CutSpace.from_plan(plan, replacements=["separable"])
    return cuts.search_space("nas_distill.pruning.build:build", arguments=fixed)


def seeded(make, *arguments, **options):
    with seeded_torch(0, "test"):
        return make(*arguments, **options)


def test_an_uncut_student_equals_the_network_of_the_teachers_builder(plan):
    teacher = seeded(resnet.build, **ARGUMENTS, input_shape=SHAPE, num_classes=CLASSES)
    student = seeded(build, **keywords(plan))
    assert torch.equal(student(images()), teacher(images()))
    assert student.training
    assert all(weight.requires_grad for weight in student.parameters())


def test_narrower_layers_keep_the_variance_of_their_outputs(plan):
    values = {"shared": [{"width": 4}, {"width": 24}], "blocks": [{"inner": [{"width": 8}]}, {"kind": "drop"}, {}]}
    teacher = seeded(resnet.build, **ARGUMENTS, input_shape=SHAPE, num_classes=CLASSES)
    student = seeded(build, **keywords(plan, **values))
    first = student.blocks[0].body[0].weight
    assert first.shape == (8, 4, 3, 3)
    assert torch.equal(first, teacher.blocks[0].body[0].weight[:8, :4] * math.sqrt(16 / 4))
    assert torch.equal(student.blocks[0].body[3].weight, teacher.blocks[0].body[3].weight[:4, :8] * math.sqrt(16 / 8))
    assert torch.equal(student.stem[0].weight, teacher.stem[0].weight[:4])
    assert torch.equal(student.head.linear.weight, teacher.head.linear.weight)


def test_the_start_does_not_change_the_structure(plan):
    one, other = (seeded(build, **keywords(plan, start=start)) for start in ("random", "inherited"))
    assert torch.equal(one(images()), other(images()))


def test_a_teacher_in_a_module_beside_the_search_file(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_teacher.py").write_text(
        "from nas_distill.models import resnet\ndef make(stem, stages, num_classes):\n"
        "    return resnet.build(stem=stem, stages=stages, input_shape=(3, 8, 8), num_classes=num_classes)\n"
        "def odd():\n    return 3\n"
    )
    found = build(**keywords(plan, teacher="my_teacher:make", paths=[str(tmp_path)], shared=[{"width": 4}]))
    assert found(images()).shape == (2, CLASSES)
    with pytest.raises(BuildError, match="my_teacher:odd returned a int"):
        build(**keywords(plan, teacher="my_teacher:odd", arguments={}))
    with pytest.raises(ConfigError, match="teacher's builder"):
        build(**keywords(plan, teacher="my_teacher:mak"))


def test_unknown_parameters_are_refused(plan):
    with pytest.raises(SpaceError, match="no parameter 'shard'; did you mean 'shared'"):
        build(**keywords(plan, shard=[{"width": 8}]))


def test_a_plan_of_another_teacher_is_refused(plan):
    with pytest.raises(SpaceError, match="entries"):
        build(**keywords(plan, shared=[{"width": 8}] * 3))


def test_a_students_folder_loads_without_the_teacher(plan, tmp_path):
    space = space_of(plan)
    architecture = space.validate(
        {
            "shared": [{"width": 8}, {"width": 16}],
            "blocks": [{"kind": "separable"}, {"kind": "drop"}, {"kind": "whole", "inner": [{"width": 8}]}],
        }
    )
    student = space.build(architecture, input_shape=SHAPE, num_classes=CLASSES).eval()
    save_student(tmp_path, student, architecture, space, input_shape=SHAPE, num_classes=CLASSES)
    assert load_spec(tmp_path)["program"] is None
    assert torch.equal(load_student(tmp_path)(images()), student(images()))


@pytest.mark.parametrize("name", ["mobile", "transformer", "own_attention"])
def test_students_of_a_module_given_from_python(name, tmp_path):
    module, plan = planned(name)
    space = pickle.loads(pickle.dumps(CutSpace.from_plan(plan).search_space(CutBuilder(module, plan))))
    smallest = space.smallest()
    one, other = (seeded(space.build, smallest, input_shape=SHAPE, num_classes=CLASSES) for _ in range(2))
    assert torch.equal(one.eval()(images()), other.eval()(images()))
    student = seeded(space.build, space.largest(), input_shape=SHAPE, num_classes=CLASSES).eval()
    assert not torch.allclose(student(images()), module(images()), atol=1e-3)  # weights are drawn again
    assert all(weight.requires_grad for weight in student.parameters())
    save_student(tmp_path, one, smallest, space, input_shape=SHAPE, num_classes=CLASSES)
    with pytest.warns(UserWarning, match="loaded as a graph"):
        loaded = load_student(tmp_path)
    torch.testing.assert_close(loaded(images()), one(images()))


def test_a_builder_keeps_a_copy():
    module, plan = planned("residual")
    builder = CutBuilder(module, plan)
    builder()
    assert not any(weight.requires_grad for weight in module.parameters())
    assert not module.training


def test_weights_are_drawn_again_by_their_layers():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MultiheadAttention(8, 2))
    module.scale = nn.Parameter(torch.full((50,), 0.1))
    module.position = nn.Parameter(2 + 3 * torch.randn(4000), requires_grad=False)
    with torch.no_grad():
        module[0].weight.fill_(7)
        module[1].running_mean.fill_(7)
        module[2].in_proj_weight.fill_(7)
    redraw(module)
    assert module[0].weight.abs().max() < 1
    assert module[1].running_mean.abs().max() == 0
    assert 0 < module[2].in_proj_weight.abs().max() < 1
    assert module[2].out_proj.bias.abs().max() == 0
    torch.testing.assert_close(module.scale.detach(), torch.full((50,), 0.1))
    assert abs(float(module.position.mean()) - 2) < 0.3
    assert abs(float(module.position.std()) - 3) < 0.3
