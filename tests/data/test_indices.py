import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.data.splits import random_indices


@given(st.integers(0, 300), st.integers(0, 400), st.integers(0, 5))
def test_indices_are_distinct_and_smaller_draws_are_prefixes(total, count, seed):
    places = random_indices(total, count, seed)
    assert places.dtype == torch.int64
    assert len(places) == min(count, total)
    assert len(set(places.tolist())) == len(places)
    assert set(places.tolist()) <= set(range(total))
    assert torch.equal(places, random_indices(total, total, seed)[:count])


def test_a_split_sorted_by_class_is_drawn_evenly():
    labels = np.repeat(np.arange(10), 100)
    counts = np.bincount(labels[random_indices(1000, 200)], minlength=10)
    assert counts.min() >= 10
    assert counts.max() <= 30


def test_indices_depend_on_seed_and_names_but_not_on_the_global_generator():
    torch.manual_seed(1)
    first = random_indices(100, 100)
    torch.manual_seed(2)
    assert torch.equal(first, random_indices(100, 100))
    others = [random_indices(100, 100, 1), random_indices(100, 100, 0, "held out"), torch.arange(100)]
    assert not any(torch.equal(first, other) for other in others)
