import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.distill.schedule import Length, epochs_begun, warmup_cosine


def test_points_of_the_curve():
    assert warmup_cosine(0.0, 0.2) == 0
    assert warmup_cosine(0.05, 0.2) == pytest.approx(0.25)
    assert warmup_cosine(0.2, 0.2) == 1
    assert warmup_cosine(0.6, 0.2) == pytest.approx(0.5)
    assert warmup_cosine(0.4, 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert warmup_cosine(1.0, 0.2) == pytest.approx(0, abs=1e-15)
    assert warmup_cosine(0.0, 0.0) == 1


@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_it_rises_then_falls_between_0_and_1(warmup, a, b):
    first, second = sorted([a, b])
    low, high = warmup_cosine(first, warmup), warmup_cosine(second, warmup)
    assert 0 <= low <= 1
    if second < warmup:
        assert low <= high
    if first >= warmup:
        assert low >= high


@given(st.floats(0.01, 0.9))
def test_it_has_no_jump_where_the_warmup_ends(warmup):
    assert warmup_cosine(warmup * (1 - 1e-9), warmup) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_it_does_its_whole_course_in_a_budget_of_any_length(steps, warmup):
    rates = [warmup_cosine((step + 0.5) / steps, warmup) for step in range(steps)]
    assert all(rate > 0 for rate in rates)  # no step is wasted
    if steps >= 10:
        assert max(rates) > 0.95
        assert rates[-1] < 0.03


@pytest.mark.parametrize(
    ("samples", "batch", "epochs", "per_epoch", "steps"),
    [(48, 8, 4, 6, 24), (48, 20, 2, 2, 4), (48, 1000, 2, 1, 2), (48, 8, 0.001, 6, 1), (48, 8, 0, 6, 0)],
)
def test_a_length_is_of_whole_batches_and_no_training_is_without_a_step(samples, batch, epochs, per_epoch, steps):
    length = Length(samples, batch, epochs)
    assert (length.per_epoch, length.steps, length.at(1.0)) == (per_epoch, steps, steps)
    assert length.at(0.0) == 0
    assert length.at(1e-9) == min(1, steps)


@pytest.mark.parametrize(
    ("epochs", "begun"), [(0, 0), (0.2, 1), (1, 1), (1 + 1e-12, 1), (1.01, 2), (0.1 + 0.2, 1), (3 * 1.1 / 1.1, 3)]
)
def test_a_part_of_an_epoch_counts_as_one(epochs, begun):
    assert epochs_begun(epochs) == begun
