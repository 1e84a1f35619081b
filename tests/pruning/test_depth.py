import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nas_distill.data import Dataset
from nas_distill.pruning.depth import _greedy, depth_order, evenly_spaced_order
from nas_distill.pruning.plan import Block, Plan


class Residual(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.scale = scale

    def forward(self, x):
        return x + self.scale * self.body(x)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return Dataset.from_tensors(rng.normal(size=(80, 4)).astype(np.float32), np.arange(80) % 2, val=0.25)


def test_the_most_redundant_block_is_dropped_first(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(Residual(1.0), Residual(1e-3), Residual(2.0), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    blocks = tuple(Block(str(index), index < 3, None, None, 1, 4, 4) for index in range(4))
    plan = Plan((), blocks, ())
    order = depth_order(module, plan, data, by="redundancy")
    assert order[0] == 1
    assert sorted(order) == [0, 1, 2]  # the last cannot be dropped
    assert depth_order(module, plan, data, by="position") == evenly_spaced_order([0, 1, 2])
    assert isinstance(module[1], Residual)


def test_a_block_for_the_last_class_of_a_sorted_split_is_not_dropped_first():
    """The first block acts only on samples of class 1, the second slightly on all."""
    y = np.repeat([0, 1], 200)
    x = np.repeat(np.eye(2, 4, dtype=np.float32), 200, 0)
    module = nn.Sequential(Residual(1.0), Residual(0.3), nn.Linear(4, 2, bias=False)).requires_grad_(False).eval()
    for block, wanted in ((module[0], torch.diag(torch.tensor([0.0, 5.0, 0.0, 0.0]))), (module[1], torch.eye(4))):
        block.body.weight.copy_(wanted)
        block.body.bias.zero_()
    module[2].weight.copy_(torch.eye(2, 4))
    plan = Plan((), tuple(Block(str(index), True, None, None, 1, 4, 4) for index in range(2)), ())
    sorted_by_class = Dataset.from_tensors(x, y, val=(x[::20], y[::20]))
    assert depth_order(module, plan, sorted_by_class, by="redundancy", samples=100) == (1, 0)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=9), st.floats(0, 2))
def test_lazy_greedy_order_equals_the_exhaustive_greedy_order(alone, together):
    """True if the divergence that a block adds does not fall as others are dropped."""

    def divergence(gone):
        return sum(alone[block] for block in gone) + together * len(gone) ** 2

    left, wanted = list(range(len(alone))), []
    while left:
        wanted.append(min(left, key=lambda block: divergence([*wanted, block])))
        left.remove(wanted[-1])
    found = _greedy(range(len(alone)), divergence)
    assert divergence(found) == pytest.approx(divergence(wanted))
    assert [alone[block] for block in found] == pytest.approx([alone[block] for block in wanted], abs=1e-9)


def test_many_blocks_are_ordered_with_few_forward_passes_of_few_samples(monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = [Residual(float(scale)) for scale in np.random.default_rng(1).uniform(0.01, 1, 27)]
        module = nn.Sequential(*blocks, nn.Linear(4, 2)).requires_grad_(False).eval()
    plan = Plan((), tuple(Block(str(index), True, None, None, 1, 4, 4) for index in range(27)), ())
    rng = np.random.default_rng(0)
    data = Dataset.from_tensors(rng.normal(size=(5000, 4)).astype(np.float32), np.arange(5000) % 2, val=0.25)
    seen = []
    monkeypatch.setattr(nn.Sequential, "forward", _counted(nn.Sequential.forward, seen))
    order = depth_order(module, plan, data, by="redundancy", samples=4096)
    assert sorted(order) == list(range(27))
    assert sum(seen) < 27 * 28 / 2 * 4096 / 10


def _counted(forward, seen):
    def counting(self, x):
        seen.append(len(x))
        return forward(self, x)

    return counting


def test_half_of_twelve_blocks_is_every_other_one():
    assert sorted(evenly_spaced_order(range(12))[:5]) == [1, 3, 5, 7, 9]


@given(st.sets(st.integers(0, 30), max_size=12))
def test_each_block_is_dropped_once_and_the_ends_last(blocks):
    order = evenly_spaced_order(sorted(blocks))
    assert sorted(order) == sorted(blocks)
    if len(blocks) > 1:
        assert set(order[-2:]) == {min(blocks), max(blocks)}
