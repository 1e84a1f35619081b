import gzip
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from nas_distill.data import Views, load_dataset
from nas_distill.data.builtin import CLASSES, read_idx
from nas_distill.data.embed_fashion import choose
from nas_distill.utils.errors import DataError

ROOT = Path("/usr/share/datasets/fashion-mnist")
PACKED = Path(str(resources.files("nas_distill.data") / "embedded" / "fashion-mnist.npz"))


@pytest.fixture(scope="module")
def subset():
    return load_dataset("fashion-mnist")


def rows(split):
    return {image.tobytes() for image in split.x}


def test_the_embedded_subset_is_small_balanced_and_disjoint(subset):
    assert PACKED.stat().st_size <= 10_000_000
    for name, count in (("train", 1200), ("val", 200), ("test", 400)):
        split = subset.split(name)
        assert split.x.shape == (count * 10, 1, 28, 28)
        assert split.x.dtype == np.uint8
        assert np.bincount(split.y).tolist() == [count] * 10
    # Fashion-MNIST has a few duplicate images, so a handful is not an overlap of splits.
    assert len(rows(subset.train) & rows(subset.val)) <= 2
    assert subset.classes == CLASSES
    assert subset.num_classes == len(CLASSES)


def test_the_embedded_subset_has_its_licence():
    assert "Permission is hereby granted" in (PACKED.parent / "NOTICE").read_text()


def test_mean_and_std_standardise_the_images(subset):
    x = subset.train.x / 255
    assert abs(x.mean() - subset.mean[0]) < 0.01
    assert abs(x.std() - subset.std[0]) < 0.01


def test_default_views_can_be_replaced():
    views = Views(count=2, pad=1)
    assert load_dataset("fashion-mnist", views=views).views == views
    assert load_dataset("fashion-mnist").views.count > 1


@pytest.mark.skipif(not ROOT.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_complete_set_has_the_same_validation_images(subset):
    whole = load_dataset("fashion-mnist", root=str(ROOT))
    assert [len(whole.split(name)) for name in whole.splits] == [58_000, 2_000, 10_000]
    assert np.array_equal(whole.val.x, subset.val.x)
    assert np.array_equal(whole.val.y, subset.val.y)
    assert rows(subset.train) <= rows(whole.train)
    assert rows(subset.test) <= rows(whole.test)
    assert len(rows(whole.train) & rows(whole.val)) <= 2
    official = read_idx(ROOT, "train-images-idx3-ubyte")
    assert len(official) == len(whole.train) + len(whole.val)
    with np.load(PACKED) as archive:
        assert np.array_equal(official[archive["val_index"]][:, None], whole.val.x)


def test_balanced_subsets_are_disjoint_and_reproducible():
    labels = np.random.default_rng(0).integers(0, 10, 2000)
    first, second = choose(labels, [20, 30], "train")
    assert not set(first) & set(second)
    assert np.bincount(labels[first]).tolist() == [20] * 10
    assert np.bincount(labels[second]).tolist() == [30] * 10
    assert np.array_equal(choose(labels, [20, 30], "train")[1], second)


# Files of the format.


def idx(array):
    sizes = b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_root(folder, **changed):
    """Write files with the right names but too few images, or the contents in ``changed``."""
    images, labels = np.zeros((10, 28, 28), np.uint8), np.zeros(10, np.uint8)
    for name, array in (("train-images-idx3", images), ("train-labels-idx1", labels)):
        (folder / f"{name}-ubyte").write_bytes(idx(array))
        (folder / f"{name.replace('train', 't10k')}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    for name, content in changed.items():
        (folder / f"{name.replace('_', '-')}-ubyte").write_bytes(content)
    return folder


def test_plain_and_gzipped_files_give_equal_data(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "b.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path, "a"), array)
    assert np.array_equal(read_idx(tmp_path, "b"), array)


WHOLE = idx(np.zeros((3, 2, 2), np.uint8))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0", b"\0\0\x08\x03", WHOLE[:10], WHOLE[:-1], WHOLE + b"\0", b"\0\0\x0d" + WHOLE[3:], b"P5 28 28 255\n",
     b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x08\xff" + b"\0" * 50],
)  # fmt: skip
def test_an_incomplete_file_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match="a is not a complete IDX file of bytes"):
        read_idx(tmp_path, "a")


def test_a_damaged_gzip_file_is_refused(tmp_path):
    packed = bytearray(gzip.compress(np.random.default_rng(0).bytes(4000)))
    flipped = packed[:200] + bytes(255 - byte for byte in packed[200:260]) + packed[260:]
    for index, content in enumerate([packed[: len(packed) // 2], flipped, b"not gzip", packed[:12] + b"\xff" * 40]):
        (tmp_path / f"{index}.gz").write_bytes(content)
        with pytest.raises(DataError, match=f"{index}.gz cannot be read"):
            read_idx(tmp_path, str(index))


def test_a_missing_root_or_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_dataset("fashion-mnist", root="nowhere", paths=[tmp_path])
    with pytest.raises(DataError, match=r"has no file train-images-idx3-ubyte\.gz; 'root' must be a folder"):
        load_dataset("fashion-mnist", root=str(tmp_path))


def test_another_set_in_the_same_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train files contain 60,000 images .* \(10, 28, 28\) and \(10,\)"):
        load_dataset("fashion-mnist", root=str(write_root(tmp_path)))
    other = {
        "train_images_idx3": idx(np.zeros((60_000, 28, 28), np.uint8)),
        "train_labels_idx1": idx(np.zeros(60_000, np.uint8)),
    }
    with pytest.raises(DataError, match="the images are not Fashion-MNIST's"):
        load_dataset("fashion-mnist", root=str(write_root(tmp_path, **other)))
