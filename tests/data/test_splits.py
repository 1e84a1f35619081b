import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.data.splits import Split, make_split, split_off
from nas_distill.utils.errors import DataError

labels_of_many_kinds = st.lists(st.integers(1, 40), min_size=1, max_size=6).map(
    lambda sizes: np.concatenate([np.full(size, label) for label, size in enumerate(sizes)])
)


def numbered(labels):
    """Samples whose first value is their index."""
    return make_split(np.arange(len(labels), dtype=np.float32)[:, None], labels, "x")


@settings(max_examples=150, deadline=None)
@given(labels_of_many_kinds, st.floats(0.01, 0.99), st.integers(0, 5), st.randoms())
def test_a_share_is_disjoint_stratified_and_reproducible(labels, share, seed, random):
    random.shuffle(labels)
    whole = numbered(labels)
    rest, part = split_off(whole, share, seed, "val", "x")
    assert len(part) == round(len(labels) * share)
    places = np.concatenate([rest.x, part.x])[:, 0]
    assert sorted(places) == list(range(len(labels)))
    for piece in (rest, part):
        assert (np.diff(piece.x[:, 0]) > 0).all()  # in the original order
        assert np.array_equal(whole.y[piece.x[:, 0].astype(int)], piece.y)
    for label, size in zip(*np.unique(labels, return_counts=True)):
        assert abs((part.y == label).sum() - size * share) < 1
    again = split_off(whole, share, seed, "val", "x")[1]
    assert np.array_equal(again.x, part.x)


def test_rare_classes_do_not_enlarge_the_quota_of_a_large_one():
    labels = np.concatenate([np.zeros(1000, int), np.arange(1, 1001)])
    _, part = split_off(numbered(labels), 0.2, 0, "val", "x")
    assert (part.y == 0).sum() == 200


def test_the_share_depends_on_seed_and_purpose():
    whole = numbered(np.arange(200) % 2)
    drawn = [split_off(whole, 0.5, *how, "x")[1].x.tobytes() for how in [(0, "val"), (1, "val"), (0, "test")]]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), True, None, "0.2"])
def test_an_invalid_share_is_refused(share):
    with pytest.raises(DataError, match=r"'val' is .*; it must be a share between 0 and 1, or"):
        split_off(numbered(np.arange(10) % 2), share, 0, "val", "mine")


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(4, 2, requires_grad=True), torch.tensor([0, 1, 0, 1])),
        (torch.zeros(4, 2, dtype=torch.bfloat16), torch.tensor([0, 1, 0, 1], dtype=torch.uint8)),
        (np.zeros((4, 2), dtype=">f8"), np.array([0, 1, 0, 1], dtype=">i2")),
        (np.zeros((4, 2), dtype=bool), np.array([False, True, False, True])),
        ([[0, 0]] * 4, [0.0, 1.0, 0.0, 1.0]),
        (np.zeros((4, 4))[:, ::-2], np.array([0, 1] * 4)[::2] * 0 + [0, 1, 0, 1]),
    ],
)
def test_tensors_arrays_and_nested_lists_become_splits(x, y):
    split = make_split(x, y, "x")
    assert (split.x.dtype, split.y.dtype) == (np.float32, np.int64)
    assert split.x.dtype.isnative
    assert split.x.flags.c_contiguous
    assert split.y.tolist() == [0, 1, 0, 1]
    assert len(split) == 4


def test_bytes_stay_bytes_and_share_memory():
    x = np.zeros((4, 1, 2, 2), dtype=np.uint8)
    split = make_split(x, np.arange(4), "x")
    assert split.x.dtype == np.uint8
    assert np.shares_memory(split.x, x)


def test_arrays_of_a_split_are_read_only():
    x = np.zeros((4, 2), dtype=np.float32)
    split = Split(x, np.zeros(4, dtype=np.int64))
    with pytest.raises(ValueError, match="read-only"):
        split.x[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        split.y[0] = 1
    x[0] = 1  # the caller's array stays writeable


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(4), np.zeros(4), r"x has shape \(4,\)"),
        (None, np.zeros(4), r"x has shape \(\)"),
        (np.zeros((4, 2)), np.zeros(3), r"y has shape \(3,\); for 4 samples it must be \(4,\)"),
        (np.zeros((4, 2)), np.zeros((4, 3)), r"y has shape \(4, 3\)"),
        (np.zeros((4, 2)), np.array(["a"] * 4), "labels are <U1; they must be whole numbers"),
        (np.zeros((2, 2)), np.array([0.5, 1]), "labels are float64; they must be whole numbers"),
        (np.zeros((2, 2)), np.array([np.inf, np.nan]), "labels are float64; they must be whole numbers"),
        (np.array([["a"]]), np.zeros(1), "x is <U1; it must be numbers"),
        (np.zeros((1, 1), dtype=complex), np.zeros(1), "x is complex128; it must be numbers"),
        ([[1, 2], [3]], np.zeros(2), "x cannot be read as an array"),
        (torch.zeros(2, 2).to_sparse(), np.zeros(2), "x cannot be read as an array"),
    ],
)
def test_invalid_samples_and_labels_are_refused(x, y, message):
    with pytest.raises(DataError, match=f"^Here: {message}") as caught:
        make_split(x, y, "Here")
    assert "\n" not in str(caught.value)
