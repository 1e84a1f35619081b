import pytest
import torch
from torch import nn

from nas_distill.evaluate.predict import predict_logits
from nas_distill.utils.errors import BuildError, DataError
from nas_distill.utils.modules import eval_mode


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


def test_batches_give_the_result_of_one_large_batch():
    model, x = make_model(), torch.randn(11, 3)
    at_once = predict_logits(model, [x])
    parts = predict_logits(model, iter(x.split([5, 5, 1])))
    assert at_once.shape == (11, 4)
    assert at_once.dtype == torch.float32
    assert not at_once.requires_grad
    torch.testing.assert_close(parts, at_once)


def test_modes_of_the_model_are_restored():
    model, x = make_model(), torch.randn(6, 3)
    model.train()
    model[1].eval()  # a frozen normalisation inside a model in training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict_logits(model, [x, x])
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modes_are_restored_after_an_error():
    model = make_model().train()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(BuildError), eval_mode(model):
        raise BuildError
    assert all(module.training for module in model.modules())


def test_half_precision_models_give_float32():
    model = nn.Linear(3, 2).to(torch.bfloat16)
    assert predict_logits(model, [torch.zeros(2, 3, dtype=torch.bfloat16)]).dtype == torch.float32


def test_missing_batches_are_refused():
    with pytest.raises(DataError, match="No batch"):
        predict_logits(make_model(), [])


class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: {"logits": x}, "returned a dict"),
        (lambda x: x.sum(), r"shape \[\] for a batch of 2"),
        (lambda x: x[:1], r"shape \[1, 3\]"),
        (lambda x: x.long(), "torch.int64"),
    ],
)
def test_other_outputs_than_logits_are_refused(answer, message):
    with pytest.raises(BuildError, match=message):
        predict_logits(Odd(answer), [torch.zeros(2, 3)])


def test_a_changing_number_of_classes_is_refused():
    with pytest.raises(BuildError, match=r"not floating logits \[3, 5\]"):
        predict_logits(Odd(lambda x: x), [torch.zeros(2, 5), torch.zeros(3, 4)])
