"""What holds for every loss for transformers."""

import pytest
import torch
from conformance import OnFeatures, check_finite, check_gradient, repeated

from nas_distill.distill.losses import Shapes, find_loss
from nas_distill.utils.errors import TrainingError

CASES = {
    "tinybert_attention": ([(3, 2, 3, 4)] * 2, [(3, 2, 3, 2)] * 2),
    "tinybert_hidden": ([(3, 4)] * 2, [(3, 6)] * 2),
    "cosine_hidden": ([(3, 4)], [(3, 6)]),
    "minilm_v1": ([(3, 2, 3, 4)], [(3, 2, 3, 5)]),
    "minilm": ([(3, 2, 3, 4)], [(3, 4, 3, 3)]),
}
NAMED = pytest.mark.parametrize("name", CASES)


@NAMED
def test_the_gradient_is_that_of_the_value(name):
    loss = OnFeatures(name, *CASES[name])
    student, teacher = loss.draw(2)
    weights = list(loss.module.parameters())

    def value(*tensors):
        # gradcheck changes the tensors that it is given, weights among them, in place.
        return loss(list(tensors[: len(student)]), teacher)

    check_gradient(value, *student)
    if weights:
        inputs = [*student, *weights]
        assert torch.autograd.gradcheck(value, inputs)


@NAMED
def test_the_batch_is_averaged_over(name):
    loss = OnFeatures(name, *CASES[name])
    student, teacher = loss.draw(2)
    value = float(loss(student, teacher).detach())
    thrice = loss([repeated(x) for x in student], [repeated(x) for x in teacher])
    assert float(thrice.detach()) == pytest.approx(value, rel=1e-12)


@NAMED
def test_the_order_of_tokens_does_not_count(name):
    loss = OnFeatures(name, *CASES[name])
    student, teacher = loss.draw(2)
    order = torch.tensor([2, 0, 1])
    turned = [[feature.index_select(-2, order) for feature in side] for side in (student, teacher)]
    assert float(loss(*turned).detach()) == pytest.approx(float(loss(student, teacher).detach()), rel=1e-12)


@NAMED
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_half_precision_and_large_features_give_finite_values_and_gradients(name, dtype, size):
    loss = OnFeatures(name, *CASES[name], dtype=torch.float32)
    student, teacher = loss.draw(2, size=min(size, 1e4), dtype=dtype)
    student = [x.requires_grad_(True) for x in student]
    value = loss(student, teacher)
    if size < 1e4 or dtype != torch.float16:
        check_finite(value, *student, *loss.module.parameters())
    else:
        # float16 ends at 65504, and so do gradients in it, which a gradient scaler is for; the value is exact.
        check_finite(value, *loss.module.parameters())


@NAMED
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_than_its_inputs_do(name, dtype):
    loss, exact = OnFeatures(name, *CASES[name], dtype=torch.float32), OnFeatures(name, *CASES[name])
    exact.module.load_state_dict(loss.module.state_dict())
    student, teacher = loss.draw(2, dtype=dtype)
    expected = float(exact([x.double() for x in student], [x.double() for x in teacher]).detach())
    assert float(loss(student, teacher).detach()) == pytest.approx(expected, rel=1e-4)


@NAMED
def test_no_pair_of_layers_is_refused(name):
    with pytest.raises(TrainingError, match=f"'{name}' got no pair of layers"):
        find_loss(name).make(Shapes(5, 100, 10))
