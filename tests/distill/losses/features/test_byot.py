import pytest
import torch
from torch import nn
from torch.nn import functional

from nas_distill.config import TermConfig, TrainingConfig
from nas_distill.data import load_dataset
from nas_distill.distill import Distiller
from nas_distill.distill.losses import Batch, Outputs, Shapes
from nas_distill.distill.losses.byot import BeYourOwnTeacher
from nas_distill.distill.losses.kd import divergence
from nas_distill.utils.errors import TrainingError

SHAPES = Shapes(3, 10, 10, (((2, 4, 4), ()), ((5, 2, 2), ())))


def made(**options):
    torch.manual_seed(0)
    return BeYourOwnTeacher(SHAPES, **options).double()


def inputs():
    generator = torch.Generator().manual_seed(0)
    features = tuple(torch.randn(4, *shape, generator=generator, dtype=torch.float64) for shape, _ in SHAPES.features)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return Outputs(logits, features), Batch(torch.tensor([0, 1, 2, 0]), torch.arange(4), 0.0)


def test_the_value_is_that_of_the_formula():
    loss, (student, batch) = made(alpha=0.3, temperature=2.0, hint=0.5), inputs()
    shallow, deepest = (feature.mean(dim=(2, 3)) for feature in student.features)
    logits = shallow @ loss.heads[0].weight.T + loss.heads[0].bias
    mapped = shallow @ loss.maps[0].weight.T + loss.maps[0].bias
    expected = 0.7 * functional.cross_entropy(logits, batch.labels)
    expected = expected + 0.3 * divergence(logits, student.logits, 2.0)
    expected = expected + 0.5 * ((mapped - deepest) ** 2).sum() / 4
    assert float(loss(student, None, batch).detach()) == pytest.approx(float(expected.detach()))


def test_the_deepest_teaches_and_is_not_taught():
    loss, (student, batch) = made(hint=1.0), inputs()
    logits = student.logits.requires_grad_()
    features = tuple(feature.requires_grad_() for feature in student.features)
    loss(Outputs(logits, features), None, batch).backward()
    assert logits.grad is None
    assert features[1].grad is None
    assert float(features[0].grad.abs().max()) > 0


def test_its_gradient_is_right():
    loss, (student, batch) = made(hint=0.1), inputs()

    def value(shallow):
        return loss(Outputs(student.logits, (shallow, student.features[1])), None, batch)

    assert torch.autograd.gradcheck(value, (student.features[0].requires_grad_(),))


def test_a_student_of_one_stage_is_told():
    with pytest.raises(TrainingError, match="at least two stages"):
        BeYourOwnTeacher(Shapes(3, 10, 10, SHAPES.features[:1]))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(8 * 4, 10),
    )


class Nobody:
    """A signal that says nothing: what is learnt is learnt of labels and of oneself."""

    num_classes, features = 10, ()

    def answer(self, split, index, view, x):
        from nas_distill.teacher.signal import Answer

        return Answer(torch.zeros(len(index), 10))

    def identity(self):
        return "nobody"

    def check(self, data):
        pass


def test_heads_give_shallow_stages_something_to_learn_and_are_left_behind():
    """With the student's own labels out of the sum, the trunk still learns the classes, through the heads alone."""
    data = load_dataset("digits")
    terms = (TermConfig.model_validate({"name": "byot", "alpha": 0.0}),)
    distiller = Distiller(network(), data, TrainingConfig(epochs=6, batch_size=32, loss=terms), signal=Nobody(), seed=0)
    before = {name: value.clone() for name, value in distiller.model.state_dict().items()}
    distiller.advance(10**6)
    student = distiller.student()
    assert set(student.state_dict()) == set(network().state_dict())
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert "0.0.weight" in moved
    assert "6.weight" not in moved  # the classifier teaches and is not taught
    # A classifier on the pooled second stage, as the head had it, tells the digits apart.
    head = distiller.objective.modules_of_terms["0"].heads[-1]
    x, labels = data.batch("val", torch.arange(len(data.val)))
    with torch.no_grad():
        reached = (head(distiller.model[:3](x).mean(dim=(2, 3))).argmax(1) == labels).float().mean()
    assert float(reached) > 0.3  # of ten classes
