"""What every loss must stand, for its own test: values, gradients, minima, invariance and half precision."""

import math

import torch

from nas_distill.distill.losses import Batch, Loss, Outputs, Shapes, find_loss


def drawn(*shape, seed=0, size=1.0, dtype=torch.float64):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size).to(dtype)


def labels_of(batch, classes, seed=0):
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))


class OnLogits:
    """A loss on logits, as a function of two tensors."""

    def __init__(self, name, **options):
        self.spec = find_loss(name)
        self.options = self.spec.check(options, name)

    def __call__(self, student, teacher, labels=None):
        labels = labels_of(*student.shape) if labels is None else labels
        batch = Batch(labels, torch.arange(len(labels)), 0.0)
        return self.spec.make(Outputs(student), Outputs(teacher), batch, **self.options)


class OnFeatures:
    """A loss on features, as a function of two lists of tensors; its weights are of float64 and of a fixed seed.

    ``student`` and ``teacher``: one sample's shapes. Those of stacked queries, keys and values, (3, heads, N, d), have
    their batch behind the 3.
    """

    def __init__(self, name, student, teacher, *, dtype=torch.float64, **options):
        spec = find_loss(name)
        assert issubclass(spec.make, Loss)
        self.student, self.teacher, self.dtype = student, teacher, dtype
        shapes = Shapes(5, 100, 10, tuple(zip(student, teacher, strict=True)))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = spec.make(shapes, **spec.check(options, name)).to(dtype)

    def draw(self, batch=4, *, seed=0, size=1.0, dtype=None):
        dtype = dtype or self.dtype
        return tuple(
            [
                drawn(*with_batch(shape, batch), seed=10 * seed + n + shift, size=size, dtype=dtype)
                for n, shape in places
            ]
            for shift, places in ((0, list(enumerate(self.student))), (100, list(enumerate(self.teacher))))
        )

    def __call__(self, student, teacher):
        batch = batch_of(student[0])
        logits = torch.zeros(batch, 5)
        labels = Batch(torch.zeros(batch, dtype=torch.int64), torch.arange(batch), 0.0)
        return self.module(Outputs(logits, tuple(student)), Outputs(logits, tuple(teacher)), labels)


def with_batch(shape, batch):
    return (3, batch, *shape[1:]) if len(shape) == 4 else (batch, *shape)


def batch_of(feature):
    return feature.shape[1] if feature.dim() == 5 else feature.shape[0]


def repeated(feature, times=3):
    """The batch ``times`` over."""
    return torch.cat([feature] * times, dim=1 if feature.dim() == 5 else 0)


def gradient(loss, student, *rest):
    """The loss's gradient for the student's one tensor."""
    student = student.detach().clone().requires_grad_(True)
    loss(student, *rest).backward()
    return student.grad


def check_gradient(function, *tensors):
    """The gradient is that of finite differences."""
    assert torch.autograd.gradcheck(function, tuple(x.detach().clone().requires_grad_(True) for x in tensors))


def check_finite(value, *tensors):
    """A finite scalar in float32 or more, of which each tensor gets a finite gradient."""
    assert value.dim() == 0
    assert value.dtype in (torch.float32, torch.float64)
    assert math.isfinite(float(value.detach()))
    value.backward()
    for tensor in tensors:
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
