import copy

import pytest
import torch

from nas_distill.teacher import LiveSignal, Teacher
from nas_distill.utils.errors import TeacherError


def test_a_live_signal_returns_the_teachers_logits(teacher, data):
    signal = LiveSignal(teacher)
    x, _ = data.batch("train", torch.arange(5), 1)
    x.requires_grad_(True)
    logits = signal.answer("train", torch.arange(5), 1, x).logits
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert torch.equal(logits, teacher.module(x).detach())
    assert signal.num_classes == 3
    assert signal.identity() == f"teacher:{teacher.fingerprint}"


def test_half_precision_logits_become_float32(data):
    class Half(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3].half()

    x, _ = data.batch("train", torch.arange(5))
    signal = LiveSignal(Teacher(Half().eval(), 3))
    assert signal.answer("train", torch.arange(5), None, x).logits.dtype == torch.float32


def test_the_teacher_moves_to_the_device_of_the_batch(teacher, data):
    x, _ = data.batch("train", torch.arange(5))
    signal = LiveSignal(Teacher(copy.deepcopy(teacher.module), 3))
    logits = signal.answer("train", torch.arange(5), None, x.to("meta")).logits
    assert logits.device.type == "meta"
    assert all(weight.device.type == "meta" for weight in signal.teacher.module.parameters())


def test_a_teacher_in_train_mode_is_refused(teacher, data):
    signal = LiveSignal(teacher)
    teacher.module[3].train()
    x, _ = data.batch("train", torch.arange(5))
    with pytest.raises(TeacherError, match="in train mode"):
        signal.answer("train", torch.arange(5), None, x)
    with pytest.raises(TeacherError, match="in train mode"):
        LiveSignal(teacher)


def test_data_with_other_classes_are_refused(teacher, data, make_data):
    LiveSignal(teacher).check(data)
    with pytest.raises(TeacherError, match="has 3 classes, but data 'toy' has 5"):
        LiveSignal(teacher).check(make_data(classes=5))
