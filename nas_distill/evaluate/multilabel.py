"""Multi-label metrics on logits (N, K), computed in float64 on the CPU, independent of the order of samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.evaluate.classification import calibration_gap, checked_logits, shape_text
from nas_distill.utils.errors import DataError


def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Return average precision, averaged over labels (macro mAP), in [0, 1]; higher is better.

    Average precision is the precision at each step of recall, weighted by the step, without interpolation; samples with
    equal logits form one step. Labels that no sample has are left out.

    Raises:
        DataError: no sample has any label.
    """
    logits, labels = _checked(logits, labels)
    return _mean([_average_precision(logits[:, place], labels[:, place]) for place in _present(labels)])


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Return F1 at a threshold of 0.5, averaged over labels, in [0, 1]; higher is better.

    Labels that no sample has are left out, as in ``mean_average_precision``.
    """
    logits, labels = _checked(logits, labels)
    predicted, present = (logits > 0).double(), _present(labels)
    hits = (predicted * labels).sum(dim=0)
    return _mean((2 * hits / (predicted.sum(dim=0) + labels.sum(dim=0)))[present].tolist())


def label_nll(logits: Tensor, labels: Tensor) -> float:
    """Return the binary cross-entropy in nats per sample, summed over its labels, at least 0; lower is better."""
    logits, labels = _checked(logits, labels)
    return float(functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")) / len(logits)


def label_ece(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of labels' probabilities, a share in [0, 1]; lower is better.

    Computed like ``classification.ece`` with each label of each sample as an event: its probability is the confidence,
    and the frequency of the label replaces accuracy.
    """
    logits, labels = _checked(logits, labels)
    return calibration_gap(logits.sigmoid().flatten(), labels.flatten(), bins)


def label_agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Return the share of equal label predictions over all samples, in [0, 1]; higher means more similar."""
    logits_a, logits_b = checked_logits(logits_a), checked_logits(logits_b)
    if logits_a.shape != logits_b.shape:
        raise DataError(
            "Agreement needs logits of the same shape, but they have "
            f"{shape_text(logits_a)} and {shape_text(logits_b)}."
        )
    return float(((logits_a > 0) == (logits_b > 0)).double().mean())


def _average_precision(scores: Tensor, labels: Tensor) -> float:
    order = scores.argsort(descending=True)
    hits, ranks = labels[order].cumsum(0), torch.arange(1, len(scores) + 1, dtype=torch.float64)
    # Positions before a lower score, since equal scores form one step.
    last = torch.cat([scores[order].diff() < 0, torch.ones(1, dtype=torch.bool)])
    found, at = hits[last], ranks[last]
    return float((found.diff(prepend=torch.zeros(1, dtype=torch.float64)) * found / at).sum() / hits[-1])


def _present(labels: Tensor) -> list[int]:
    present: list[int] = labels.any(dim=0).nonzero().flatten().tolist()
    if not present:
        raise DataError("No sample has any label, so quality is undefined.")
    return present


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = checked_logits(logits)
    if labels.shape != logits.shape:
        raise DataError(
            f"Logits and labels must have the same shape, but have {shape_text(logits)} and {shape_text(labels)}."
        )
    labels = labels.detach().cpu().double()
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise DataError("Labels of a multi-label task must be 0 or 1, but other values were given.")
    return logits, labels
