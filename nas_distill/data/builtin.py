"""Built-in data sets: Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747) and scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
import zlib
from importlib import resources
from pathlib import Path

import numpy as np

from nas_distill.data.dataset import Dataset
from nas_distill.data.splits import Split
from nas_distill.data.views import Views
from nas_distill.utils.errors import DataError, first_line


def load_digits(views: Views | None = None, seed: int = 0) -> Dataset:
    """Load digits: images (1, 8, 8) uint8 (grey levels 0..16, scaled to 0..255), 10 classes.

    The test split has 20 % of the samples, the validation split 20 % of the rest, both stratified. By default ``views``
    shift by one pixel.
    """
    from sklearn.datasets import load_digits as load

    bundle = load()
    x = np.round(bundle.images[:, None] * (255 / 16)).astype(np.uint8)
    return Dataset.from_tensors(
        x,
        bundle.target,
        val=0.2,
        test=0.2,
        num_classes=10,
        mean=(0.305,),
        std=(0.376,),
        views=views or Views(count=4, pad=1),
        name="digits",
        seed=seed,
    )


CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
# Of the 58,000 training images, scaled to [0, 1].
MEAN, STD = (0.2860,), (0.3530,)
DEFAULT_VIEWS = Views(count=4, pad=2, flip=True)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load_fashion(root: Path | None = None, views: Views | None = None) -> Dataset:
    """Load Fashion-MNIST; images (1, 28, 28) uint8, 10 classes.

    Args:
        root: a folder of IDX files, plain or gzipped, for the complete set (58,000 training images, 2,000 validation,
            10,000 test); None loads the embedded subset (12,000, 2,000, 4,000).
        views: augmentation; by default shifts by up to 2 pixels, and mirroring.

    Raises:
        DataError: a file is missing or damaged.
    """
    packed = resources.files("nas_distill.data") / "embedded" / "fashion-mnist.npz"
    with resources.as_file(packed) as path, np.load(path) as archive:
        embedded = dict(archive)
    if root is None:
        parts = {name: Split(embedded[f"{name}_x"], embedded[f"{name}_y"]) for name in ("train", "val", "test")}
        name = "fashion-mnist (subset)"
    else:
        x, y = _read_pair(root, "train", 60_000)
        validation = np.zeros(len(x), dtype=bool)
        validation[embedded["val_index"]] = True
        if not np.array_equal(x[validation][:, None], embedded["val_x"]) or not np.array_equal(
            y[validation], embedded["val_y"]
        ):
            raise DataError(
                f"{root}: the images are not Fashion-MNIST's; 'root' may contain another set in the same format."
            )
        test_x, test_y = _read_pair(root, "test", 10_000)
        parts = {
            "train": Split(x[~validation][:, None], y[~validation].astype(np.int64)),
            "val": Split(embedded["val_x"], embedded["val_y"]),
            "test": Split(test_x[:, None], test_y.astype(np.int64)),
        }
        name = "fashion-mnist"
    return Dataset(
        name, parts["train"], parts["val"], parts["test"], 10, MEAN, STD, views or DEFAULT_VIEWS, classes=CLASSES
    )


def _read_pair(root: Path, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = (read_idx(root, file) for file in FILES[part])
    if x.shape != (count, 28, 28) or y.shape != (count,):
        raise DataError(
            f"{root}: Fashion-MNIST's {part} files contain {count:,} images of 28 x 28 and as many labels, but these "
            f"have the shapes {x.shape} and {y.shape}."
        )
    return x, y


def read_idx(root: Path, name: str) -> np.ndarray:
    """Read an IDX file of unsigned bytes: magic (0, 0, 8, axes), sizes as big-endian uint32, then the values.

    Raises:
        DataError: the file is missing or incomplete.
    """
    for path in (root / f"{name}.gz", root / name):
        if path.exists():
            break
    else:
        raise DataError(f"{root} has no file {name}.gz; 'root' must be a folder of Fashion-MNIST's four IDX files.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}); download it again.") from error
    axes = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * axes
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if axes == 0 or len(content) != header + math.prod(sizes):
        raise DataError(f"{path} is not a complete IDX file of bytes; download it again.")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes)
