import copy
import pickle

import pytest
import torch
from torch import nn

from nas_distill.teacher import freeze
from nas_distill.utils.errors import TeacherError


def test_a_frozen_teacher_repeats_its_answers_and_takes_no_gradients(data, make_module):
    module = make_module().train()
    teacher = freeze(module, data, "mine")
    assert (teacher.module, teacher.num_classes, teacher.name) == (module, 3, "mine")
    assert not any(part.training for part in module.modules())
    assert not any(weight.requires_grad for weight in module.parameters())
    x, _ = data.batch("train", torch.arange(20))
    before = copy.deepcopy(module.state_dict())
    first = module(x)
    assert torch.equal(module(x), first)
    assert not first.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


class ForgetsToReturnItself(nn.Sequential):
    """A common user error: train() returns None, and so does eval()."""

    def train(self, mode=True):
        super().train(mode)


class KeepsANormalisationTraining(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[2].train()
        return self


class CannotStopTraining(nn.Sequential):
    def train(self, mode=True):
        return super().train(True)


def test_a_module_that_overrides_train_without_returning_itself(data, make_module):
    module = ForgetsToReturnItself(*make_module())
    assert freeze(module, data).module is module
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("kind", [KeepsANormalisationTraining, CannotStopTraining])
def test_a_module_that_stays_in_train_mode_is_refused(data, make_module, kind):
    with pytest.raises(TeacherError, match="in train mode"):
        freeze(kind(*make_module()), data)


def test_modules_without_weights_and_with_lazy_weights_can_be_frozen(data):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3]

    assert freeze(Fixed(), data).num_classes == 3
    lazy = freeze(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), data)
    assert not any(weight.requires_grad for weight in lazy.module.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module: module.train(), "in train mode"),
        (lambda module: module[3].train(), "in train mode"),
        (lambda module: module.requires_grad_(True), "gradients"),
        (lambda module: setattr(module[1].bias, "requires_grad", True), "gradients"),
    ],
)
def test_a_teacher_unfrozen_later_is_detected(teacher, change, message):
    teacher.assert_frozen()
    change(teacher.module)
    with pytest.raises(TeacherError, match=f"^Teacher 'toy' .*{message}"):
        teacher.assert_frozen()


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def nan(x):
    return torch.full((len(x), 3), float("nan"))


INVALID = [
    (lambda x: {"logits": x}, r"returns dict for a batch of 2; it must return \(B, classes\)"),
    (lambda x: (x, x), "returns tuple for a batch of 2"),
    (lambda x: None, "returns NoneType for a batch of 2"),
    (lambda x: x, r"returns \(2, 1, 4, 4\) for a batch of 2"),
    (lambda x: x.flatten(1)[:1, :3], r"returns \(1, 3\) for a batch of 2"),
    (lambda x: x.flatten(1)[:, :5], "has 5 classes, but data 'toy' has 3"),
    (nan, "returns NaN or infinity on data 'toy'"),
    (lambda x: nan(x).nan_to_num(float("inf")), "returns NaN or infinity on data 'toy'"),
    (lambda x: x @ torch.ones(9, 9), r"fails on a batch of shape \(2, 1, 4, 4\) of data 'toy' \(RuntimeError: "),
    (lambda x: 1 // 0, "fails on a batch .*ZeroDivisionError"),
]


@pytest.mark.parametrize(("make", "message"), INVALID, ids=[message for _, message in INVALID])
def test_a_module_that_cannot_teach_the_data_is_refused(data, make, message):
    with pytest.raises(TeacherError, match=f"^Teacher 'odd' {message}") as caught:
        freeze(Returns(make), data, "odd")
    assert "\n" not in str(caught.value)


def test_weights_with_nan_are_refused(data, make_module):
    module = make_module()
    with torch.no_grad():
        module[1].weight[0, 0] = float("nan")
    with pytest.raises(TeacherError, match="NaN"):
        freeze(module, data)


def test_a_teacher_that_is_not_a_module_is_refused(data):
    with pytest.raises(TeacherError, match=r"is a function; it must be a torch\.nn\.Module"):
        freeze(lambda x: x, data)


def test_freezing_does_not_touch_the_global_generator(data, make_module):
    module = make_module()
    state = torch.get_rng_state()
    freeze(module, data)
    assert torch.equal(torch.get_rng_state(), state)


# Fingerprints.


def test_fingerprints_are_equal_for_equal_teachers_only(make_teacher, data, make_module):
    base = make_teacher()
    assert make_teacher().fingerprint == base.fingerprint
    assert pickle.loads(pickle.dumps(base)).fingerprint == base.fingerprint
    moved = make_module()
    with torch.no_grad():
        moved[4].bias[2] += 1e-6
    buffered = make_module()
    buffered[2].running_mean[0] = 0.5
    half = make_module()
    half[4].bias.data = half[4].bias.data.double()
    half[4].weight.data = half[4].weight.data.double()
    half.insert(4, Returns(torch.Tensor.double))
    others = [make_teacher(seed=1), *(freeze(module, data) for module in (moved, buffered, half))]
    assert len({teacher.fingerprint for teacher in [base, *others]}) == 5


def test_the_structure_is_part_of_the_fingerprint(data, make_module):
    plain, other = make_module(), make_module()
    other.insert(3, nn.ReLU())
    same_keys = nn.Sequential(*plain[:3], nn.Tanh(), plain[4])
    assert plain.state_dict().keys() == same_keys.state_dict().keys()
    prints = {freeze(module, data).fingerprint for module in (plain, other, same_keys)}
    assert len(prints) == 3


def test_memory_addresses_are_not_part_of_the_fingerprint(data, make_module):
    class Shows(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = lambda x: x

        def extra_repr(self):
            return repr(self.function)

        def forward(self, x):
            return self.function(x)

    first, second = (nn.Sequential(*make_module(), Shows()) for _ in range(2))
    assert repr(first) != repr(second)
    assert freeze(first, data).fingerprint == freeze(second, data).fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_buffers_of_any_type_are_part_of_the_fingerprint(data, make_module, dtype):
    prints = set()
    for value in (0, 1):
        module = make_module()
        module.register_buffer("extra", torch.full((2, 3), value).to(dtype))
        module.register_buffer("scalar", torch.tensor(1).to(dtype))
        prints.add(freeze(module, data).fingerprint)
    assert len(prints) == 2
