"""A curriculum: easy samples first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.common.task import Task
from nas_distill.config import CurriculumConfig


def share_that_counts(done: float, curriculum: CurriculumConfig) -> float:
    """Return which share of each batch counts when ``done`` of the training is over; it rises linearly to 1."""
    if done >= curriculum.until:
        return 1.0
    return curriculum.start + (1 - curriculum.start) * done / curriculum.until


def easiest(hardness: Tensor, share: float) -> Tensor:
    """Return the places (K,) of the easiest ``share`` of a batch, at least one, in the batch's order.

    Args:
        hardness: (B,), lower is easier.
        share: in (0, 1].
    """
    count = max(1, round(share * len(hardness)))
    return hardness.topk(count, largest=False).indices.sort().values


def hardness(logits: Tensor, teacher: Tensor | None, labels: Tensor, by: str, task: Task = "classification") -> Tensor:
    """Return how hard samples are (B,): the entropy of the teacher's classes or labels, or the student's own loss.

    The student's loss is cross-entropy, summed over labels, or the squared error. A regression has no entropy.
    By the teacher's entropy where there is no teacher, all are alike. Samples that are hard for the student because
    their labels are wrong come last too (self-paced learning; Kumar et al., 2010).
    """
    if by == "student_loss":
        return _losses(logits.detach(), labels, task)
    if teacher is None:
        return torch.zeros(len(labels), device=labels.device)
    if task == "multilabel":
        return _losses(teacher, teacher.sigmoid(), task)
    log_shares = functional.log_softmax(teacher, dim=1)
    return -(log_shares.exp() * log_shares).sum(dim=1)


def _losses(outputs: Tensor, labels: Tensor, task: Task) -> Tensor:
    if task == "classification":
        return functional.cross_entropy(outputs, labels, reduction="none")
    if task == "multilabel":
        return functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(dim=1)
    return (outputs - labels).square().mean(dim=1)
