"""Classification metrics on logits, (N, C). Computed in float64 on the CPU, independent of sample order."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.utils.errors import DataError


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose largest logit is their label's, in [0, 1]; higher is better.

    Of equal largest logits the first class counts as predicted.
    """
    logits, labels = _checked(logits, labels)
    return float((logits.argmax(dim=1) == labels).double().mean())


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Return the share of samples for which both predict the same class, in [0, 1]; higher means more alike.

    Both are ``[N, C]`` of the same N and C. Agreement says nothing about who is right.
    """
    logits_a, logits_b = checked_logits(logits_a), checked_logits(logits_b)
    if logits_a.shape != logits_b.shape:
        raise DataError(
            f"Agreement needs two sets of logits of one shape, and these are {shape_text(logits_a)} and "
            f"{shape_text(logits_b)}."
        )
    return float((logits_a.argmax(dim=1) == logits_b.argmax(dim=1)).double().mean())


def nll(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels in nats per sample, at least 0; lower is better."""
    logits, labels = _checked(logits, labels)
    return float(torch.nn.functional.cross_entropy(logits, labels))


def ece(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error, a share in [0, 1]; lower is better.

    Samples fall by top-1 confidence into ``bins`` equal intervals ``((m-1)/bins, m/bins]``; the figure is the mean over
    samples of how far their bin's accuracy is from its mean confidence (Guo et al. 2017, "On calibration of modern
    neural networks", eq. 3). Empty bins count nothing.
    """
    logits, labels = _checked(logits, labels)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return calibration_gap(confidence, (predicted == labels).double(), bins)


def calibration_gap(confidence: Tensor, happened: Tensor, bins: int) -> float:
    """Return the mean over samples of how far what ``happened`` is from ``confidence``, each the mean of its bin.

    Args:
        confidence: (N,) float64 probabilities.
        happened: (N,) float64, 1 where what they are of was so, else 0.
        bins: equal intervals, at least 1.
    """
    if bins < 1:
        raise DataError(f"The calibration error needs at least 1 bin, not {bins}.")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    place = torch.bucketize(confidence, edges)
    # Per bin, |sum of hits - sum of confidences| is its weight times its gap, times N: no division by an empty bin.
    surplus = torch.zeros(bins, dtype=torch.float64)
    surplus.index_add_(0, place, happened - confidence)
    return float(surplus.abs().sum() / len(confidence))


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = checked_logits(logits)
    if labels.dim() != 1 or len(labels) != len(logits):
        raise DataError(
            f"Logits of shape {shape_text(logits)} need {len(logits)} labels, and these are {shape_text(labels)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"Labels must be integers, one class a sample, and these are {labels.dtype}.")
    labels = labels.detach().cpu().long()
    low, high, classes = int(labels.min()), int(labels.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise DataError(f"Labels run from {low} to {high}, but logits of {classes} classes allow 0 to {classes - 1}.")
    return logits, labels


def checked_logits(logits: Tensor) -> Tensor:
    """Return logits (N, C) in float64 on the CPU.

    Raises:
        DataError: they are of another shape or type, there are none, or one is not finite.
    """
    if logits.dim() != 2 or not logits.is_floating_point():
        raise DataError(
            f"Logits must be a floating tensor [samples, classes], not {logits.dtype} of shape {shape_text(logits)}."
        )
    if logits.numel() == 0:
        raise DataError(f"There is nothing to evaluate: the logits are of shape {shape_text(logits)}.")
    logits = logits.detach().cpu().double()
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).any(dim=1).sum())
        raise DataError(f"The logits of {bad} of {len(logits)} samples are NaN or infinite.")
    return logits


def shape_text(tensor: Tensor) -> str:
    """Write a tensor's shape as errors have it."""
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"
