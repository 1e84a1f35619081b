import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.data.loaders import as_dataset
from nas_distill.data.splits import Split
from nas_distill.tasks import find_task, infer_task
from nas_distill.utils.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
LABELS = (np.arange(60).reshape(20, 3) % 4 == 0).astype(np.float64)
NUMBERS = RNG.normal(size=(20, 2))


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (np.arange(20), "classification"),
        (np.arange(20) / 1.0, "classification"),
        (LABELS, "multilabel"),
        (LABELS.astype(int), "multilabel"),
        (LABELS.astype(bool), "multilabel"),
        (LABELS[:, :1], "multilabel"),
        (NUMBERS, "regression"),
        (NUMBERS[:, :1], "regression"),
        (np.round(NUMBERS * 10), "regression"),
    ],
)
def test_the_task_is_inferred_from_labels(y, task):
    assert infer_task(y, "x") == task


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(3)[np.arange(20) % 3], "single 1 of 3, like one-hot classes"),
        (np.arange(40).reshape(20, 2), "integers of shape .*; give class labels as .* or name the task"),
        (np.ones((20, 1), dtype=int), r"give class labels as \(20,\)"),
    ],
)
def test_ambiguous_labels_are_refused_without_a_task(y, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_tensors(X, y)
    for task in ("multilabel", "regression"):
        if task == "regression" or set(np.unique(y)) <= {0, 1}:
            columns = find_task(task).targets(y, 20, "x")
            assert (columns.dtype, columns.shape) == (np.float32, y.shape)


def test_multi_label_data_have_columns_of_zeros_and_ones():
    data = Dataset.from_tensors(X, LABELS, val=0.25, test=0.25, classes=["a", "b", "c"])
    assert (data.task, data.num_classes, data.classes) == ("multilabel", 3, ("a", "b", "c"))
    assert [len(data.split(name)) for name in data.splits] == [11, 4, 5]
    x, y = data.batch("train", torch.arange(4))
    assert (x.dtype, y.dtype, y.shape) == (torch.float32, torch.float32, (4, 3))
    assert torch.equal(data.labels("train")[:4], y)
    again = pickle.loads(pickle.dumps(data))
    assert again.task == "multilabel"
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("y", [NUMBERS, NUMBERS[:, 0], torch.from_numpy(NUMBERS), NUMBERS.tolist()])
def test_regression_data_have_columns_of_numbers(y):
    named = None if np.ndim(y) == 2 else "regression"
    data = Dataset.from_tensors(X, y, task=named)
    assert data.task == "regression"
    assert data.train.y.shape[1] == data.num_classes == (2 if np.ndim(y) == 2 else 1)
    everything = np.concatenate([data.train.y, data.val.y])[:, 0]
    np.testing.assert_allclose(sorted(everything), sorted(NUMBERS[:, 0].astype(np.float32)))


@given(st.integers(2, 40), st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_share_without_classes_is_split_off_at_random(count, share, seed):
    x, y = np.arange(count)[:, None], np.arange(2 * count).reshape(count, 2) / 7
    if not 2 <= round(count * share) <= count - 2:
        return
    data = Dataset.from_tensors(x, y, val=share, seed=seed)
    assert len(data.val) == round(count * share)
    for part in (data.train, data.val):
        np.testing.assert_allclose(part.y, y[part.x[:, 0].astype(int)].astype(np.float32))
    again = Dataset.from_tensors(x, y, val=share, seed=seed)
    assert np.array_equal(again.val.x, data.val.x)


def test_the_fingerprint_depends_on_the_task():
    labels = Dataset.from_tensors(X, LABELS)
    numbers = Dataset.from_tensors(X, LABELS, task="regression")
    assert labels.fingerprint != numbers.fingerprint
    assert Dataset.from_tensors(X, np.arange(20) % 2).task == "classification"


def test_fingerprints_of_classifications_are_stable():
    """Stores, checkpoints and runs from versions without other tasks depend on them."""
    data = Dataset.from_tensors(np.arange(60, dtype=np.uint8).reshape(20, 3), np.arange(20) % 2)
    assert data.fingerprint == "fe4a713e6f26b8c5c1dc5d0c196315ec9099eb5fc39cb566a0e393f61472cefb"
    assert load_dataset("digits").fingerprint == "b63011a42f2e3c769ed221c6b2282ba674b3fb8bb05ce92fbc78a250d4782f99"


@pytest.mark.parametrize(
    ("y", "keys", "message"),
    [
        (NUMBERS[:, 0], {}, "labels are float64; they must be whole numbers from 0; for regression give task="),
        (np.where(LABELS, 2, 0), {"task": "multilabel"}, "labels of a multi-label task must be 0 or 1"),
        (LABELS * 0, {"task": "multilabel"}, "training split: no sample has any label"),
        (LABELS * 0 + 0.5, {}, "training split: all samples have the same targets"),
        (np.where(LABELS, np.nan, NUMBERS[:, :1]), {}, "targets of sample 0 hold NaN or infinity"),
        (np.where(LABELS, 1e300, NUMBERS[:, :1]), {}, "targets of sample 0 hold NaN or infinity"),
        (NUMBERS[:, :, None], {}, r"y has shape \(20, 2, 1\)"),
        (NUMBERS[:, :, None], {"task": "regression"}, r"y has shape .* of regression it must be \(20, K\)"),
        (NUMBERS[:5], {}, r"y has shape \(5, 2\); for 20 samples of regression"),
        (np.array([["a"]] * 20), {"task": "regression"}, "y is <U1; it must be numbers"),
        (NUMBERS, {"num_classes": 3}, "y has 2 columns for 3 targets"),
        (LABELS, {"classes": ["a"]}, "1 label names for 3 labels"),
        (NUMBERS, {"val": (X[:4], NUMBERS[:4, :1])}, "validation split: y has 1 columns for 2 targets"),
        (NUMBERS, {"val": (X[:4], NUMBERS[:4] * 0)}, "validation split: all samples have the same targets"),
        (NUMBERS, {"views": Views(count=2, flip=True)}, "views with flip need images"),
    ],
)
def test_invalid_labels_and_targets_are_refused(y, keys, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_tensors(X, y, **keys)


def test_a_split_of_other_types_is_refused():
    split = Split(X, NUMBERS.astype(np.float32))
    with pytest.raises(DataError, match=r"a Split for classification must have .* \(N,\) int64"):
        Dataset("mine", split, split, None, 2)
    classes = Split(X, np.arange(20) % 2)
    with pytest.raises(DataError, match=r"a Split for regression must have .* \(N, K\) float32"):
        Dataset("mine", classes, classes, None, 1, task="regression")


class Pairs:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return X[place], self.labels[place]


def test_rows_of_labels_are_read_from_a_dataset_of_pairs_and_from_arrays(tmp_path):
    assert as_dataset(Pairs(NUMBERS)).task == "regression"
    assert as_dataset(Pairs(torch.from_numpy(LABELS))).task == "multilabel"
    assert as_dataset(Pairs(NUMBERS[:, :1]), task="regression").num_classes == 1
    assert as_dataset({"train": Pairs(NUMBERS), "val": Pairs(NUMBERS[:5])}).num_classes == 2
    with pytest.raises(DataError, match=r"item 1 is not .* it has 3 labels, and the first has 2"):
        as_dataset(Pairs([[0.5, 1.0], [0.5, 1.0, 2.0]]))
    np.savez(tmp_path / "mine.npz", x=X, y=NUMBERS[:, 0])
    assert load_dataset(str(tmp_path / "mine.npz"), task="regression").num_classes == 1


def test_a_task_that_does_not_fit_the_data_is_refused():
    with pytest.raises(DataError, match="'digits' has labels of the task classification, not regression"):
        load_dataset("digits", task="regression")
    with pytest.raises(DataError, match="multi-label task must be 0 or 1"):
        as_dataset(Dataset.from_tensors(X, NUMBERS), task="multilabel")
