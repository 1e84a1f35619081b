"""Classification metrics on logits (N, C), computed in float64 on the CPU, independent of the order of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.utils.errors import DataError


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose largest logit is that of their label, in [0, 1]; higher is better.

    Of equal largest logits the first one is the prediction.
    """
    return float(correct(logits, labels).double().mean())


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return a mask (N,) of samples whose largest logit is that of their label, as ``accuracy`` counts them."""
    logits, labels = _checked(logits, labels)
    return logits.argmax(dim=1) == labels


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Return the share of samples with the same predicted class, in [0, 1]; higher means more similar.

    Both are (N, C) with the same N and C. Agreement does not depend on labels.
    """
    logits_a, logits_b = checked_logits(logits_a), checked_logits(logits_b)
    if logits_a.shape != logits_b.shape:
        raise DataError(
            "Agreement needs logits of the same shape, but they have "
            f"{shape_text(logits_a)} and {shape_text(logits_b)}."
        )
    return float((logits_a.argmax(dim=1) == logits_b.argmax(dim=1)).double().mean())


def nll(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels in nats per sample, at least 0; lower is better."""
    logits, labels = _checked(logits, labels)
    return float(torch.nn.functional.cross_entropy(logits, labels))


def ece(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error, a share in [0, 1]; lower is better.

    Top-1 confidences are divided into ``bins`` equal intervals ``((m-1)/bins, m/bins]``. The error is the absolute
    difference of accuracy and mean confidence per bin, averaged over samples (Guo et al. 2017, "On calibration of
    modern neural networks", eq. 3). Empty bins have no weight.
    """
    logits, labels = _checked(logits, labels)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return calibration_gap(confidence, (predicted == labels).double(), bins)


def calibration_gap(confidence: Tensor, outcomes: Tensor, bins: int) -> float:
    """Return the absolute difference of mean ``outcomes`` and mean ``confidence`` per bin, averaged over samples.

    Args:
        confidence: (N,) float64 predicted probabilities of events.
        outcomes: (N,) float64, 1 for events that occurred, else 0.
        bins: number of equal intervals, at least 1.
    """
    if bins < 1:
        raise DataError(f"The calibration error needs at least 1 bin, not {bins}.")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    bin_of = torch.bucketize(confidence, edges)
    # |sum of outcomes - sum of confidences| of a bin is its weight times its gap, times N: no division by empty bins.
    surplus = torch.zeros(bins, dtype=torch.float64)
    surplus.index_add_(0, bin_of, outcomes - confidence)
    return float(surplus.abs().sum() / len(confidence))


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = checked_logits(logits)
    if labels.dim() != 1 or len(labels) != len(logits):
        raise DataError(
            f"Logits of shape {shape_text(logits)} need {len(logits)} labels, but labels have {shape_text(labels)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"Labels must be integers, one class per sample, not {labels.dtype}.")
    labels = labels.detach().cpu().long()
    low, high, classes = int(labels.min()), int(labels.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise DataError(
            f"Labels run from {low} to {high}, but with {classes} classes they must be in 0..{classes - 1}."
        )
    return logits, labels


def checked_logits(logits: Tensor) -> Tensor:
    """Return logits (N, C) in float64 on the CPU.

    Raises:
        DataError: the shape or type is wrong, the tensor is empty, or a value is not finite.
    """
    if logits.dim() != 2 or not logits.is_floating_point():
        raise DataError(
            f"Logits must be a floating tensor [samples, classes], not {logits.dtype} of shape {shape_text(logits)}."
        )
    if logits.numel() == 0:
        raise DataError(f"Logits of shape {shape_text(logits)} have no values to evaluate.")
    logits = logits.detach().cpu().double()
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).any(dim=1).sum())
        raise DataError(f"The logits of {bad} of {len(logits)} samples are NaN or infinite.")
    return logits


def shape_text(tensor: Tensor) -> str:
    """Return a tensor's shape as text for messages."""
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"
