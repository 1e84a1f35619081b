"""Quality of the finished networks on test data, and differences with their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from torch import nn
from trainings import Book, say

from nas_distill.data import Dataset
from nas_distill.evaluate.predict import predict_logits


@dataclass(frozen=True)
class Tested:
    """Correctness of each seed's network per test image: (seeds, images), 1 or 0."""

    correct: np.ndarray

    @property
    def accuracies(self) -> list[float]:
        """One a seed, shares of 1."""
        return [float(row.mean()) for row in self.correct]

    @property
    def mean(self) -> float:
        return fmean(self.accuracies)


class Tests:
    """Looks at the test split with each network once, and keeps which images it gets wrong."""

    def __init__(self, data: Dataset, path: Path) -> None:
        self._data = data
        self._split = data.splits[-1]
        self._book = Book(path)

    def __contains__(self, key: str) -> bool:
        return key in self._book

    def look(self, key: str, module: nn.Module) -> None:
        """Evaluate a network, unless that was done."""
        if key in self._book:
            return
        say(f"Evaluating {key}.")
        data, split = self._data, self._split
        logits = predict_logits(module, data.inputs(split))
        wrong = logits.argmax(1) != data.labels(split)
        self._book[key] = wrong.nonzero().flatten().tolist()

    def of(self, keys: Sequence[str]) -> Tested | None:
        """Return what the networks of some keys got right; None if none was evaluated."""
        rows = np.ones((0, len(self._data.split(self._split))))
        for key in keys:
            if key in self._book:
                row = np.ones((1, rows.shape[1]))
                row[0, self._book[key]] = 0
                rows = np.concatenate([rows, row])
        return Tested(rows) if len(rows) else None


def difference(ours: Tested, theirs: Tested) -> tuple[float, float]:
    """Return the difference of mean accuracies (above 0: ours is better) and its standard error.

    The error is of test images, which are paired, and of training seeds together.
    """
    by_image = ours.correct.mean(axis=0) - theirs.correct.mean(axis=0)
    variance = float(by_image.var(ddof=1)) / len(by_image)
    for rows in (ours.correct, theirs.correct):
        if len(rows) > 1:
            variance += float(rows.mean(axis=1).var(ddof=1)) / len(rows)
    return float(by_image.mean()), math.sqrt(variance)
