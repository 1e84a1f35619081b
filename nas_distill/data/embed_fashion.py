"""Generator of the embedded Fashion-MNIST subset: ``python -m nas_distill.data.embed_fashion``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from nas_distill.data.builtin import FILES, read_idx
from nas_distill.utils.seeds import numpy_rng


def choose(labels: np.ndarray, counts: list[int], name: str) -> list[np.ndarray]:
    """Draw disjoint balanced subsets: for each entry of ``counts``, that many of each class; indices in order."""
    rng = numpy_rng(0, "embedded", name)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    starts = np.cumsum([0, *counts])
    return [
        np.sort(np.concatenate([part[start : start + count] for part in members]))
        for start, count in zip(starts, counts)
    ]


def main(root: Path, output: Path) -> None:
    """Write 2,000 validation and 12,000 training images of the training set, and 4,000 of the test set."""
    x, y = (read_idx(root, file) for file in FILES["train"])
    test_x, test_y = (read_idx(root, file) for file in FILES["test"])
    val, train = choose(y, [200, 1200], "train")
    (test,) = choose(test_y, [400], "test")
    np.savez_compressed(
        output,
        train_x=x[train][:, None],
        train_y=y[train].astype(np.int64),
        val_x=x[val][:, None],
        val_y=y[val].astype(np.int64),
        val_index=val,
        test_x=test_x[test][:, None],
        test_y=test_y[test].astype(np.int64),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
