import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from nas_distill.config import TermConfig, TrainingConfig
from nas_distill.data import Dataset, load_dataset
from nas_distill.distill import Distiller
from nas_distill.distill.losses import Outputs, find_loss
from nas_distill.distill.losses.kd import divergence
from nas_distill.teacher import LiveSignal, freeze
from nas_distill.teacher.signal import Answer, CombinedSignal, mixture, teacher_weights
from nas_distill.utils.errors import TeacherError


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@pytest.fixture
def logits():
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


LABELS = torch.tensor([0, 1, 2, 3, 0])


def test_entropy_weights_are_higher_for_more_certain_teachers(logits):
    p = softmax(logits.numpy())
    entropy = -(p * np.log(p)).sum(axis=2)
    expected = (1 - entropy / entropy.sum(axis=0)) / 2
    np.testing.assert_allclose(teacher_weights(logits, LABELS, "entropy").numpy(), expected, rtol=1e-6)


def test_confidence_weights_are_higher_for_teachers_nearer_to_the_label(logits):
    p = softmax(logits.numpy())
    wrong = -np.log(p[:, np.arange(5), LABELS.numpy()])
    expected = (1 - softmax(wrong, axis=0)) / 2
    np.testing.assert_allclose(teacher_weights(logits, LABELS, "confidence").numpy(), expected, rtol=1e-6)


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, (3, 2, 4), elements=st.floats(-1e4, 1e4)), st.sampled_from(["mean", "entropy", "confidence"])
)
def test_weights_are_nonnegative_and_sum_to_one(values, by):
    weights = teacher_weights(torch.from_numpy(values), torch.tensor([1, 3]), by)
    assert float(weights.min()) >= 0
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(2, dtype=weights.dtype), rtol=1e-6, atol=1e-6)


class Fixed:
    """A signal with fixed logits."""

    def __init__(self, logits):
        self.logits = logits
        self.num_classes = logits.shape[1]
        self.features = ()

    def answer(self, split, index, view, x):
        return Answer(self.logits[index])

    def identity(self):
        return f"fixed:{float(self.logits.sum())}"

    def check(self, data):
        pass


class Labels:
    """A data set with labels only."""

    task = "classification"

    def labels(self, split):
        return LABELS


@pytest.mark.parametrize("by", ["mean", "entropy", "confidence"])
def test_kd_from_the_mixture_is_the_weighted_sum_of_kd_from_each(logits, by):
    combined = CombinedSignal([Fixed(each) for each in logits], Labels(), by=by, temperature=3.0)
    index = torch.arange(5)
    mixture = combined.answer("train", index, 0, index).logits
    weights = teacher_weights(logits, LABELS, by)
    student = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = []
    for each in (False, True):
        z = student.clone().requires_grad_()
        if each:
            rows = range(5)
            total = sum(
                weights[k, b] * divergence(z[b : b + 1], logits[k, b : b + 1], 3.0) / 5 for k in range(3) for b in rows
            )
        else:
            total = divergence(z, mixture, 3.0)
        total.backward()
        gradients.append(z.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_identity_depends_on_signals_weighting_and_temperature(logits):
    signals = [Fixed(each) for each in logits]
    identities = {
        CombinedSignal(signals, Labels()).identity(),
        CombinedSignal(signals[:2], Labels()).identity(),
        CombinedSignal(signals, Labels(), by="entropy").identity(),
        CombinedSignal(signals, Labels(), temperature=2.0).identity(),
    }
    assert len(identities) == 4


# Two teachers, each of which knows one half of the classes.


def learn(data, signal=None, *, loss=None, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    terms = loss or (TermConfig(name="cross_entropy"),)
    settings = TrainingConfig(epochs=12, batch_size=64, loss=terms)
    distiller = Distiller(model, data, settings, signal=signal, seed=seed)
    distiller.advance(10**6)
    return distiller


class Half:
    """A teacher that is confidently wrong about the classes that it does not know."""

    def __init__(self, inner, known):
        self.inner, self.known = inner, known
        self.num_classes, self.features = 10, ()

    def answer(self, split, index, view, x):
        answer = self.inner.answer(split, index, view, x).logits
        unknown = ~torch.isin(answer.argmax(1), torch.tensor(self.known))
        return Answer(torch.where(unknown[:, None], answer.roll(1, dims=1), answer))

    def identity(self):
        return f"half:{self.known}"

    def check(self, data):
        pass


def test_confidence_weighting_combines_the_knowledge_of_both_teachers():
    data = load_dataset("digits")
    good = LiveSignal(freeze(learn(data).student(), data))
    halves = [Half(good, [0, 1, 2, 3, 4]), Half(good, [5, 6, 7, 8, 9])]
    only_taught = (TermConfig.model_validate({"name": "kd", "temperature": 4.0}),)
    reached = {
        "one": learn(data, halves[0], loss=only_taught).quality(),
        "mean": learn(data, CombinedSignal(halves, data), loss=only_taught).quality(),
        "confidence": learn(data, CombinedSignal(halves, data, by="confidence"), loss=only_taught).quality(),
    }
    assert reached["one"] < 0.7  # it was taught half of the classes wrongly
    assert reached["confidence"] > 0.9
    assert reached["confidence"] > reached["mean"] + 0.02


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


YES_NO = torch.tensor([[0.0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 1], [0, 1, 1, 0]])


def test_multilabel_entropies_and_cross_entropies_are_summed_over_labels(logits):
    p, truth = sigmoid(logits.numpy()), YES_NO.numpy()
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(axis=2)
    expected = (1 - entropy / entropy.sum(axis=0)) / 2
    found = teacher_weights(logits, YES_NO, "entropy", "multilabel")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    wrong = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).sum(axis=2)
    found = teacher_weights(logits, YES_NO, "confidence", "multilabel")
    np.testing.assert_allclose(found.numpy(), (1 - softmax(wrong, axis=0)) / 2, rtol=1e-6)


@pytest.mark.parametrize("by", ["mean", "entropy", "confidence"])
def test_bce_kd_from_the_mixture_is_the_weighted_sum_of_bce_kd_from_each(logits, by):
    weights = teacher_weights(logits, YES_NO, by, "multilabel")
    student = torch.randn(5, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    loss = find_loss("bce_kd").make

    def gradient(teacher, rows):
        value = loss(Outputs(student[rows]), Outputs(teacher[rows]), None, temperature=3.0)
        return torch.autograd.grad(value, student)[0]

    mixed = mixture(logits, weights, 3.0, "multilabel")
    for index in range(5):
        rows = slice(index, index + 1)
        each = sum(float(weights[k, index]) * gradient(logits[k], rows) for k in range(3))
        torch.testing.assert_close(gradient(mixed, rows), each)


def test_regression_outputs_are_averaged():
    logits = torch.arange(12.0).reshape(2, 3, 2)
    weights = torch.tensor([[0.25, 0.5, 1.0], [0.75, 0.5, 0.0]])
    expected = 0.25 * logits[0, 0] + 0.75 * logits[1, 0]
    torch.testing.assert_close(mixture(logits, weights, 4.0, "regression")[0], expected)
    x = np.random.default_rng(0).normal(size=(20, 2))
    data = Dataset.from_tensors(x, x * 2)
    signals = [LiveSignal(freeze(nn.Linear(2, 2), data)) for _ in range(2)]
    index = torch.arange(4)
    batch = data.batch("train", index)[0]
    found = CombinedSignal(signals, data).answer("train", index, None, batch).logits
    each = [signal.answer("train", index, None, batch).logits for signal in signals]
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)
    with pytest.raises(TeacherError, match="by 'entropy'"):
        CombinedSignal(signals, data, by="entropy")
