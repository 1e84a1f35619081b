import pytest
import torch
from torch import nn

from nas_distill.evaluate.predict import predict_logits
from nas_distill.utils.errors import BuildError, DataError
from nas_distill.utils.modules import eval_mode


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


def test_batches_give_what_one_large_batch_gives():
    model, x = make_model(), torch.randn(11, 3)
    whole = predict_logits(model, [x])
    parts = predict_logits(model, iter(x.split([5, 5, 1])))
    assert whole.shape == (11, 4)
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    torch.testing.assert_close(parts, whole)


def test_the_model_is_left_as_it_was():
    model, x = make_model(), torch.randn(6, 3)
    model.train()
    model[1].eval()  # a frozen normalisation inside a model in training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict_logits(model, [x, x])
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modes_come_back_after_an_error():
    model = make_model().train()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(BuildError), eval_mode(model):
        raise BuildError
    assert all(module.training for module in model.modules())


def test_half_precision_models_give_float32():
    model = nn.Linear(3, 2).to(torch.bfloat16)
    assert predict_logits(model, [torch.zeros(2, 3, dtype=torch.bfloat16)]).dtype == torch.float32


def test_no_batch_is_an_error():
    with pytest.raises(DataError, match="no batch"):
        predict_logits(make_model(), [])


class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: {"logits": x}, "returned a dict"),
        (lambda x: x.sum(), r"shape \[\] for a batch of 2"),
        (lambda x: x[:1], r"shape \[1, 3\]"),
        (lambda x: x.long(), "torch.int64"),
    ],
)
def test_something_else_than_logits_is_one_sentence(answer, said):
    with pytest.raises(BuildError, match=said):
        predict_logits(Odd(answer), [torch.zeros(2, 3)])


def test_a_class_count_that_changes_is_an_error():
    with pytest.raises(BuildError, match=r"not floating logits \[3, 5\]"):
        predict_logits(Odd(lambda x: x), [torch.zeros(2, 5), torch.zeros(3, 4)])
