import pickle

import numpy as np
import pytest
import torch

from nas_distill.data import Dataset, Split, Views
from nas_distill.data.splits import as_tensor_readonly
from nas_distill.utils.errors import DataError


def pixels(count=20, channels=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, 6, 6), dtype=np.uint8)


def make(x=None, y=None, **options):
    x = pixels() if x is None else x
    return Dataset.from_tensors(x, np.arange(len(x)) % 4 if y is None else y, **options)


def test_bytes_are_scaled_and_standardised_by_channel():
    x = pixels()
    data = make(x, val=(x[:4], np.arange(4)), mean=(0.2, 0.6), std=(0.5, 2.0))
    got, labels = data.batch("train", torch.tensor([3, 0, 3]))
    expected = (x[[3, 0, 3]] / 255 - np.array([0.2, 0.6])[:, None, None]) / np.array([0.5, 2.0])[:, None, None]
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    assert labels.tolist() == [3, 0, 3]
    raw, rule = x[3].astype(float), data.normalisation()
    by_rule = (raw * rule["scale"] - np.array(rule["mean"])[:, None, None]) / np.array(rule["std"])[:, None, None]
    np.testing.assert_allclose(got[0].numpy(), by_rule, atol=1e-6)


def test_without_mean_bytes_are_scaled_and_floats_unchanged():
    got, _ = make().batch("val", torch.arange(2))
    assert float(got.max()) <= 1
    assert float(got.max()) > 0.9
    x = np.linspace(-3, 900, 40, dtype=np.float32).reshape(20, 2)
    data = make(x, val=(x, np.arange(20) % 4))
    assert torch.equal(data.batch("train", torch.arange(20))[0], torch.from_numpy(x))
    assert data.normalisation()["scale"] == 1.0


def test_floats_are_standardised_by_given_mean_and_std():
    x = np.arange(40, dtype=np.float64).reshape(20, 2)
    data = make(x, val=(x, np.arange(20) % 4), mean=(1, 2), std=(2, 4))
    np.testing.assert_allclose(data.batch("train", torch.arange(20))[0].numpy(), (x - [1, 2]) / [2, 4])


def test_only_batches_of_a_view_are_augmented():
    x = pixels()
    data = make(x, val=(x, np.arange(20) % 4), views=Views(count=2, pad=2, flip=True))
    everything = torch.arange(20)
    plain = data.batch("train", everything)[0]
    torch.testing.assert_close(plain, torch.from_numpy(x) / 255)
    assert torch.equal(data.batch("train", everything, None)[0], plain)
    seen, labels = data.batch("train", everything, 1)
    assert not torch.equal(seen, plain)
    assert torch.equal(labels, data.labels("train"))
    torch.testing.assert_close(seen, data.views.apply(torch.from_numpy(x), everything, 1, 20) / 255)
    assert torch.equal(data.batch("train", torch.tensor([5, 2]), 1)[0], seen[[5, 2]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_batch_is_a_copy(dtype):
    x = pixels().astype(dtype)
    data = make(x, val=(x, np.arange(20) % 4))
    before = x.copy()
    data.batch("train", torch.arange(20), 0)[0].zero_()
    data.batch("train", torch.arange(20))[1].zero_()
    assert np.array_equal(x, before)
    assert data.labels("train").tolist() == [0, 1, 2, 3] * 5


def test_read_only_arrays_work_without_a_warning():
    # Torch would raise the warning, and the settings of pytest turn it into an error.
    x, y = pixels(), np.arange(20) % 4
    x.flags.writeable = y.flags.writeable = False
    data = make(x, y, val=(x, y), views=Views(count=1, pad=1))
    data.batch("train", torch.arange(20), 0)
    tensor = as_tensor_readonly(x)
    assert tensor.data_ptr() == x.ctypes.data


def test_batches_cover_a_split_in_order():
    data = make(pixels(23), val=(pixels(23), np.arange(23) % 4))
    pieces = data.batches("val", 10)
    assert [len(piece) for piece in pieces] == [10, 10, 3]
    assert torch.cat(pieces).tolist() == list(range(23))
    assert torch.equal(torch.cat(list(data.inputs("val"))), data.batch("val", torch.arange(23))[0])


def test_a_pickle_has_no_caches():
    data = make(views=Views(count=2, pad=1), mean=(0.1, 0.2), std=(1, 1), classes=["a", "b", "c", "d"])
    plain = len(pickle.dumps(data))
    first = data.batch("train", torch.arange(3), 1)
    fingerprint = data.fingerprint
    assert len(pickle.dumps(data)) < plain + 200
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint == fingerprint
    assert (again.name, again.classes, again.views) == (data.name, data.classes, data.views)
    assert torch.equal(again.batch("train", torch.arange(3), 1)[0], first[0])


def test_the_fingerprint_depends_on_data_but_not_on_views():
    x, y = pixels(), np.arange(20) % 4
    options = {"val": (x[:8], y[:8]), "test": (x[:6], y[:6]), "mean": (0.1, 0.2), "std": (1.0, 2.0), "num_classes": 4}
    base = make(x, y, **options)
    assert make(x.copy(), y.copy(), **options).fingerprint == base.fingerprint
    assert base.with_views(Views(count=7, pad=1)).fingerprint == base.fingerprint
    flipped = x.copy()
    flipped[7, 1, 2, 3] ^= 1
    relabelled = y.copy()
    relabelled[[0, 1]] = relabelled[[1, 0]]
    others = [
        make(flipped, y, **options),
        make(x, relabelled, **options),
        make(x[::-1], y[::-1], **options),
        make(x.astype(np.float32), y, **{**options, "val": (x[:8] * 1.0, y[:8]), "test": (x[:6] * 1.0, y[:6])}),
        make(x, y, **{**options, "val": (x[:8], relabelled[:8])}),
        make(x, y, **{**options, "val": (x[:7], y[:7])}),
        make(x, y, **{**options, "test": (x[:5], y[:5])}),
        make(x, y, **{**options, "test": None}),
        make(x, y, **{**options, "mean": (0.1, 0.3)}),
        make(x, y, **{**options, "std": (1.0, 2.1)}),
        make(x, y, **{**options, "mean": None, "std": None}),
        make(x, y, **{**options, "num_classes": 5}),
        make(x.reshape(20, 2, 4, 9), y, **{**options, "val": (x[:8].reshape(8, 2, 4, 9), y[:8]), "test": None}),
    ]
    assert len({data.fingerprint for data in [base, *others]}) == len(others) + 1


def test_test_and_validation_shares_are_split_off_in_turn():
    data = make(pixels(100), val=0.25, test=0.2)
    assert data.splits == ("train", "val", "test")
    assert [len(data.split(name)) for name in data.splits] == [60, 20, 20]
    assert all(np.bincount(data.split(name).y).tolist() == [len(data.split(name)) // 4] * 4 for name in data.splits)
    assert make(pixels(100), val=0.25, test=0.2).fingerprint == data.fingerprint
    assert make(pixels(100), val=0.25, test=0.2, seed=1).fingerprint != data.fingerprint


def test_without_test_data_there_is_no_test_split():
    data = make()
    assert data.splits == ("train", "val")
    with pytest.raises(DataError, match="has no test split"):
        data.split("test")


def test_classes_are_counted_over_all_splits():
    x = pixels()
    data = make(x, np.zeros(20, int), val=(x, np.ones(20, int)), test=(x, np.full(20, 2)))
    assert data.num_classes == 3


def test_datasets_are_comparable_and_hashable():
    data = make()
    assert data == data
    assert data != make()
    assert data in {data: 1}


NAN = np.full((20, 3), np.nan, dtype=np.float32)
Y = np.arange(20) % 4
BAD = [
    ({"num_classes": 3}, "training split: labels run from 0 to 3, but with 3 classes they must be in 0..2"),
    ({"y": Y - 1}, "training split: labels run from -1 to 2"),
    ({"y": np.zeros(20, int)}, "has 1 class; a classification needs at least two"),
    ({"x": pixels(0), "y": Y[:0]}, "training split is empty"),
    ({"val": (pixels(0), Y[:0])}, "validation split is empty"),
    ({"x": pixels(2), "y": Y[:2], "val": 0.2}, "validation split is empty"),
    ({"test": (pixels(0), Y[:0])}, "test split is empty"),
    ({"x": NAN}, "sample 0 holds NaN or infinity"),
    ({"x": np.full((20, 3), 1e300)}, "sample 0 holds NaN or infinity"),
    ({"x": np.zeros((20, 0))}, "have no values"),
    (
        {"val": (pixels()[:, :1], Y)},
        r"validation split: samples have shape \(1, 6, 6\), but training samples \(2, 6, 6",
    ),
    ({"val": (pixels() / 255, Y)}, "validation split: samples are float32, but training samples uint8"),
    ({"val": (pixels(), Y[:-1])}, "validation split: y has shape"),
    ({"val": (pixels(), Y, 3)}, "'val' has 3 parts; give a share, or"),
    ({"test": (pixels(),)}, "'test' has 1 parts; give a share, or"),
    ({"val": None}, "'val' is None; it must be a share"),
    ({"mean": (0.1, 0.1)}, "both 'mean' and 'std', or neither"),
    ({"mean": (0.1,), "std": (1.0,)}, "'mean' has 1 entries, but a sample has 2 channels"),
    ({"mean": (0.1, 0.2), "std": (1.0,)}, "'std' has 1 entries"),
    ({"mean": (0.1, 0.2), "std": (1.0, 0.0)}, "'std' must be above 0"),
    ({"mean": (0.1, float("nan")), "std": (1.0, 1.0)}, "'mean' holds NaN"),
    ({"classes": ["a"]}, "1 class names for 4 classes"),
    ({"x": np.zeros((20, 3)), "views": Views(flip=True)}, "views with flip need images"),
    ({"x": np.zeros((20, 3)), "views": Views(pad=(1, 1))}, "shift 2 axes, but a sample has shape"),
    ({"views": Views(pad=6)}, "lower 'pad'"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_invalid_data_is_refused(options, message):
    with pytest.raises(DataError, match=f"^Data 'mine'.*{message}") as caught:
        make(**{"name": "mine", **options})
    assert str(caught.value).endswith((".", ")."))
    assert "\n" not in str(caught.value)


def test_a_sample_with_nan_is_named():
    x = np.zeros((20, 3), dtype=np.float32)
    x[13, 1] = np.inf
    with pytest.raises(DataError, match="sample 13 holds"):
        make(x, val=(np.zeros((4, 3)), Y[:4]))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((4, 2)), np.zeros(4, np.int64)),
        (np.zeros((4, 2), np.float32), np.zeros(4, np.int32)),
        (np.zeros((4, 2), np.float32), np.zeros((4, 1), np.int64)),
        (np.zeros((4, 2), np.float32), np.zeros(3, np.int64)),
        (np.zeros(4, np.float32), np.zeros(4, np.int64)),
    ],
)
def test_a_split_created_directly_is_checked(x, y):
    good = Split(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match="training split: samples"):
        Dataset("mine", Split(x, y), good, None, 2)
    with pytest.raises(DataError, match="validation split: samples"):
        Dataset("mine", good, Split(x, y), None, 2)
