"""Quality: the one figure by which networks of a task are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nas_distill.common.task import Task
from nas_distill.evaluate.metrics import accuracy
from nas_distill.evaluate.multilabel import mean_average_precision
from nas_distill.evaluate.regression import r2

_FIGURES: Mapping[Task, Callable[[Tensor, Tensor], float]] = {
    "classification": accuracy,
    "multilabel": mean_average_precision,
    "regression": r2,
}


def quality_of(outputs: Tensor, labels: Tensor, task: Task = "classification") -> float:
    """Return what networks of a task are compared by, at most 1; higher is better.

    Accuracy of classes, mean average precision of labels, R^2 of targets.

    Args:
        outputs: (N, K) logits or predicted targets.
        labels: (N,) int64 classes, or (N, K) labels or targets.
        task: what they are of.

    Raises:
        DataError: shapes do not fit, values are not finite, or it cannot be told from these labels.
    """
    return _FIGURES[task](outputs, labels)


def guessing_quality(labels: Tensor, task: Task = "classification") -> float:
    """Return the quality of the best constant answer: the most frequent class, or the mean of labels or targets.

    Args:
        labels: (N,) int64 classes, or (N, K) labels or targets.
        task: what they are of.

    Raises:
        DataError: quality cannot be told from these labels.
    """
    if task == "classification":
        return float(labels.bincount().max()) / len(labels)
    if task == "multilabel":
        # What ranks samples equally has a precision of the label's share, wherever the line is drawn.
        shares = labels.double().mean(dim=0)
        return float(shares[shares > 0].mean())
    return 0.0


def same_answers(one: Tensor, other: Tensor, task: Task = "classification") -> Tensor:
    """Return for which samples two networks answer the same, (N,) bool, of outputs (N, K).

    The same class of the highest logit; of labels, all the same ones. Values have no such sameness, so of a regression
    all are said to be: how far they are apart is another question.
    """
    if task == "classification":
        return one.argmax(dim=1) == other.argmax(dim=1)
    if task == "multilabel":
        return ((one > 0) == (other > 0)).all(dim=1)
    return torch.ones(len(one), dtype=torch.bool)
