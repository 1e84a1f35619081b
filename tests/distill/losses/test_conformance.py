"""What holds for every loss on logits."""

import math

import pytest
import torch
from conformance import OnLogits, check_finite, check_gradient, drawn, gradient, labels_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas_distill.distill.losses import find_loss, loss_names
from nas_distill.utils.errors import ConfigError, TrainingError

LOSSES = {
    "kd": [{}, {"temperature": 1.0}],
    "lskd": [{}],
    "dkd": [{}, {"alpha": 0.0}, {"beta": 0.0, "temperature": 0.5}],
    "dist": [{}, {"temperature": 4.0}, {"beta": 0.0}, {"gamma": 0.0}],
    "forward_kl": [{}, {"temperature": 3.0}],
    "reverse_kl": [{}, {"temperature": 3.0}],
    "jsd": [{}, {"beta": 0.0}, {"beta": 1.0}, {"beta": 0.1, "temperature": 2.0}],
    "soft_cross_entropy": [{}, {"temperature": 3.0}],
    "bce_kd": [{}, {"temperature": 3.0}],
    "mse": [{}],
    "cosine_logits": [{}],
}
CASES = [pytest.param(name, options, id=f"{name}-{options}") for name, many in LOSSES.items() for options in many]
NAMES = [pytest.param(name, {}, id=name) for name in LOSSES]


def least(name, teacher, options):
    """What a loss is where the student's logits are the teacher's; 0 but for cross-entropy, which is an entropy."""
    if name != "soft_cross_entropy":
        return 0.0
    temperature = options.get("temperature", 1.0)
    shares = (teacher / temperature).softmax(1)
    return -(temperature**2) * float(torch.special.xlogy(shares, shares).sum(1).mean())


def test_no_loss_on_logits_is_left_out():
    on_logits = {name for name in loss_names() if find_loss(name).layers == "none" and find_loss(name).taught}
    own = {name for name in on_logits if not isinstance(find_loss(name).make, type)}
    assert own == set(LOSSES)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_is_that_of_the_value(name, options):
    loss, teacher, labels = OnLogits(name, **options), drawn(4, 5, seed=1, size=2.0), labels_of(4, 5)
    check_gradient(lambda z: loss(z, teacher, labels), drawn(4, 5, size=2.0))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_equal_logits_are_the_minimum(name, options):
    loss, teacher, labels = OnLogits(name, **options), drawn(6, 5, seed=1), labels_of(6, 5)
    lowest = least(name, teacher, options)
    assert float(loss(teacher, teacher, labels)) == pytest.approx(lowest, abs=1e-12)
    assert float(gradient(loss, teacher, teacher, labels).abs().max()) < 1e-12
    for seed in range(20):
        off = teacher + drawn(6, 5, seed=seed + 2, size=0.3)
        assert float(loss(off, teacher, labels)) > lowest + 1e-6


logits = hnp.arrays(float, (4, 3), elements=st.floats(-30, 30))


@pytest.mark.parametrize(("name", "options"), CASES)
@given(logits, logits, st.integers(0, 10))
def test_nothing_is_below_the_minimum_and_all_is_finite(name, options, student, teacher, seed):
    loss, teacher, labels = OnLogits(name, **options), torch.from_numpy(teacher), labels_of(4, 3, seed)
    student = torch.from_numpy(student).requires_grad_(True)
    value = loss(student, teacher, labels)
    assert float(value.detach()) >= least(name, teacher, options) - 1e-9
    check_finite(value, student)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_batch_is_averaged_over(name, options):
    loss, student, teacher, labels = OnLogits(name, **options), drawn(4, 5), drawn(4, 5, seed=1), labels_of(4, 5)
    value = float(loss(student, teacher, labels))
    thrice = loss(student.repeat(3, 1), teacher.repeat(3, 1), labels.repeat(3))
    assert float(thrice) == pytest.approx(value, rel=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    assert float(loss(student[order], teacher[order], labels[order])) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_names_of_classes_do_not_count(name, options):
    loss, student, teacher, labels = OnLogits(name, **options), drawn(4, 5), drawn(4, 5, seed=1), labels_of(4, 5)
    order = torch.tensor([4, 2, 0, 1, 3])
    renamed = loss(student[:, order], teacher[:, order], order.argsort()[labels])
    assert float(renamed) == pytest.approx(float(loss(student, teacher, labels)), rel=1e-12)


BETWEEN_CLASSES = [case for case in CASES if case.values[0] not in ("bce_kd", "mse", "cosine_logits")]


@pytest.mark.parametrize(("name", "options"), BETWEEN_CLASSES)
def test_a_constant_added_to_a_sample_s_logits_does_not_count(name, options):
    loss, student, teacher, labels = OnLogits(name, **options), drawn(4, 5), drawn(4, 5, seed=1), labels_of(4, 5)
    shift = drawn(4, 1, seed=2, size=10.0)
    assert float(loss(student + shift, teacher, labels)) == pytest.approx(float(loss(student, teacher, labels)))


TEMPERED = [case for case in NAMES if case.values[0] not in ("mse", "cosine_logits", "lskd")]


@pytest.mark.parametrize(("name", "options"), TEMPERED)
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_tempered_logits_are_divided_and_the_loss_gets_the_square(name, options, temperature):
    student, teacher, labels = drawn(4, 5), drawn(4, 5, seed=1), labels_of(4, 5)
    plain, tempered = OnLogits(name, temperature=1.0), OnLogits(name, temperature=temperature)
    expected = temperature**2 * float(plain(student / temperature, teacher / temperature, labels))
    assert float(tempered(student, teacher, labels)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_half_precision_and_large_logits_give_finite_values_and_gradients(name, options, dtype, size):
    if name == "lskd" and dtype == torch.float16:
        pytest.skip("the gradient for a sample of equal logits is up to 1e7, which float16 does not hold")
    certain = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
    for teacher in (certain, -certain, torch.zeros(4, 3), drawn(4, 3, dtype=torch.float32)):
        student = (certain * size).to(dtype).requires_grad_(True)
        check_finite(OnLogits(name, **options)(student, (teacher * size).to(dtype)), student)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_than_its_inputs_do(name, options, dtype):
    loss, labels = OnLogits(name, **options), labels_of(16, 10)
    student, teacher = drawn(16, 10, dtype=dtype), drawn(16, 10, seed=1, dtype=dtype)
    exact = float(loss(student.double(), teacher.double(), labels))
    assert float(loss(student, teacher, labels)) == pytest.approx(exact, rel=1e-3)


OWN = [case for case in NAMES if case.values[0] not in ("kd", "lskd")]


@pytest.mark.parametrize(("name", "options"), OWN)
def test_logits_that_cannot_be_compared_are_refused(name, options):
    loss = OnLogits(name, **options)
    with pytest.raises(TrainingError, match=rf"'{name}' .* student gives \(4, 5\) .* teacher \(4, 6\); give both the"):
        loss(drawn(4, 5), drawn(4, 6))
    if name in ("bce_kd", "mse"):
        assert math.isfinite(float(loss(drawn(4, 1), drawn(4, 1, seed=1))))
    else:
        with pytest.raises(TrainingError, match=f"'{name}' .* needs 2 or more, but the logits are of 1; take 'bce_kd'"):
            loss(drawn(4, 1), drawn(4, 1), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(("name", "parts"), [("dkd", ("alpha", "beta")), ("dist", ("beta", "gamma"))])
def test_a_loss_all_of_whose_parts_weigh_0_is_refused(name, parts):
    with pytest.raises(ConfigError, match=rf"loss.0 \({name}\): .* are 0"):
        find_loss(name).check(dict.fromkeys(parts, 0.0), "loss.0")
    assert find_loss(name).parts == parts
