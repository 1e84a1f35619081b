"""A student that can be asked about other inputs, and the auxiliary losses made for it."""

import pytest
import torch
from conformance import drawn

from nas_distill.distill.losses import Batch, Outputs, Shapes, find_loss


class Asked:
    """A loss that asks again, as a function of inputs and of the weights of what stands for the student.

    The student makes of a sample the linear map ``weight``, in the shape ``feature``; ``seen`` keeps what it was asked.
    """

    def __init__(self, name, inputs, feature, *, dtype=torch.float64, **options):
        self.spec = find_loss(name)
        self.feature, self.seen = feature, []
        values, made = (torch.Size(shape).numel() for shape in (inputs, feature))
        self.weight = drawn(values, made, seed=9, dtype=dtype) / values**0.5
        shapes = Shapes(5, 20, 10, ((feature, ()),), inputs)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = self.spec.make(shapes, **self.spec.check(options, name)).to(dtype)

    def __call__(self, x, weight=None, *, seed=3, dtype=None):
        weight = self.weight if weight is None else weight

        def ask(inputs):
            self.seen.append(inputs.detach())
            made = (inputs.flatten(1) @ weight).unflatten(1, self.feature)
            return Outputs(made.new_zeros(len(made), 5), (made if dtype is None else made.to(dtype),))

        count = len(x)
        batch = Batch(torch.zeros(count, dtype=torch.int64), torch.arange(count), 0.5, x)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.module(Outputs(x.new_zeros(count, 5), (), ask), None, batch)

    def check_gradient(self, x):
        """Of the student's weights, and of the loss's own along one way through all."""
        assert torch.autograd.gradcheck(
            lambda weight: self(x, weight), self.weight.clone().requires_grad_(), fast_mode=True
        )
        own = list(self.module.parameters())
        grads = torch.autograd.grad(self(x), own)
        way = [drawn(*weight.shape, seed=n) for n, weight in enumerate(own)]
        slope = sum(float((grad * step).sum()) for grad, step in zip(grads, way))
        values = []
        with torch.no_grad():
            for sign in (1, -2):
                for weight, step in zip(own, way):
                    weight += sign * 1e-6 * step
                values.append(float(self(x)))
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


@pytest.fixture
def make_asked():
    return Asked
