"""Features of student and teacher, and the checks that every loss on features stands."""

import numpy as np
import pytest
import torch

from nas_distill.distill.losses import Batch, Loss, Outputs, Shapes, find_loss
from nas_distill.teacher.signal import reduce_feature


class Case:
    """One loss, made for given shapes of the student's and of the teacher's layers (the latter before reduction)."""

    def __init__(self, name, student, teacher, *, samples=12, dtype=torch.float64, **options):
        self.spec = find_loss(name)
        self.student, self.teacher, self.samples, self.dtype = student, teacher, samples, dtype
        self.options = self.spec.check(options, "loss.0")
        self.module = None
        if isinstance(self.spec.make, type) and issubclass(self.spec.make, Loss):
            meta = [reduce_feature(torch.zeros(1, *shape), self.spec.reduction).shape[1:] for shape in teacher]
            shapes = Shapes(5, samples, 10, tuple((tuple(s), tuple(t)) for s, t in zip(student, meta)))
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.module = self.spec.make(shapes, **self.options).to(dtype)

    def draw(self, batch=4, *, seed=0, dtype=None, size=1.0):
        generator = torch.Generator().manual_seed(seed)
        dtype = dtype or self.dtype
        ours = [(torch.randn(batch, *s, generator=generator) * size).to(dtype) for s in self.student]
        theirs = [(torch.randn(batch, *t, generator=generator) * size).to(dtype) for t in self.teacher]
        return ours, theirs

    def __call__(self, ours, theirs, *, index=None, seed=3, labels=None):
        """The loss of raw features on both sides; whatever is drawn is drawn from ``seed``."""
        count = len(ours[0])
        logits = torch.zeros(count, 5, dtype=self.dtype)
        index = torch.arange(count) if index is None else index
        batch = Batch(torch.zeros(count, dtype=torch.int64), index, 0.5)
        reduced = tuple(reduce_feature(value, self.spec.reduction) for value in theirs)
        outputs = Outputs(logits, tuple(ours)), Outputs(logits, reduced)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.module is not None:
                return self.module(*outputs, batch)
            return self.spec.make(*outputs, batch, **self.options)

    def check_gradient(self, batch=4):
        ours, theirs = self.draw(batch)
        ours = [value.requires_grad_() for value in ours]
        assert torch.autograd.gradcheck(lambda *values: self(list(values), theirs), ours)
        if self.module is not None:
            weights = [weight for weight in self.module.parameters() if weight.requires_grad]
            if weights:
                self.check_weights(weights, ours, theirs)

    def check_weights(self, weights, ours, theirs):
        """One random direction through all weights: the slope of the loss is that of the gradient."""
        grads = torch.autograd.grad(self(ours, theirs), weights, allow_unused=True)
        assert all(grad is not None for grad in grads), "a weight that nothing trains"
        generator = torch.Generator().manual_seed(7)
        way = [torch.randn(weight.shape, generator=generator).to(weight) for weight in weights]
        slope = sum(float((grad * step).sum()) for grad, step in zip(grads, way))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, step in zip(weights, way):
                    weight += sign * 1e-6 * step
                values.append(float(self(ours, theirs)))
                for weight, step in zip(weights, way):
                    weight -= sign * 1e-6 * step
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-7)

    def check_stability(self):
        """Half precision is computed as float32; zero, equal and large features have finite values and gradients."""
        assert self.dtype == torch.float32
        for dtype in (torch.float16, torch.bfloat16):
            ours, theirs = self.draw(dtype=dtype)
            value = self(ours, theirs)
            assert value.dtype == torch.float32
            wide = self([v.float() for v in ours], [v.float() for v in theirs])
            assert float(value.detach()) == pytest.approx(float(wide.detach()), rel=1e-2, abs=1e-6)
        for ours_size, theirs_size in [(0, 1), (1, 0), (0, 0), (1e4, 1), (1, 1e4), (1e4, 1e4), (1e-4, 1), (1e-8, 1e-8)]:
            for flat in (False, True):
                ours, theirs = self.draw()
                if flat:
                    ours = [torch.ones_like(value) for value in ours]
                ours = [(value * ours_size).requires_grad_() for value in ours]
                value = self(ours, [value * theirs_size for value in theirs])
                assert torch.isfinite(value), (ours_size, theirs_size, flat)
                value.backward()
                for feature in ours:
                    assert torch.isfinite(feature.grad).all(), (ours_size, theirs_size, flat)
        self.check_dead_units()

    def check_dead_units(self):
        """Zero gradients or not, no sample, channel or place that is dead makes a NaN."""
        for dim in (0, 1, -1):
            ours, theirs = self.draw()
            for value in (*ours, *theirs):
                value.index_fill_(dim, torch.tensor([0]), 0.0)
            ours = [value.relu().requires_grad_() for value in ours]
            self(ours, [value.relu() for value in theirs]).backward()
            assert all(torch.isfinite(value.grad).all() for value in ours)

    def check_minimum(self, tolerance=1e-9):
        """Features that are the teacher's give 0, with gradient 0, and others do not."""
        _, theirs = self.draw()
        ours = [value.clone().requires_grad_() for value in theirs]
        value = self(ours, theirs)
        assert float(value.detach()) == pytest.approx(0, abs=tolerance)
        value.backward()
        for feature in ours:
            assert float(feature.grad.abs().max()) < tolerance
        other, _ = self.draw(seed=5)
        assert float(self(other, theirs)) > 1e3 * tolerance


@pytest.fixture
def make_case():
    return Case


@pytest.fixture
def as_numpy():
    return lambda values: [np.asarray(value.detach(), dtype=np.float64) for value in values]
