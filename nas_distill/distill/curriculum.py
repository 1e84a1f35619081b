"""Curriculum: easy samples first."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.config import CurriculumConfig
from nas_distill.distill.losses import Batch
from nas_distill.tasks import find_task


def curriculum_error(curriculum: CurriculumConfig | None, task: str) -> str | None:
    """Return why samples of a task cannot be ordered as a curriculum says, without a full stop; None if they can."""
    if curriculum is None or curriculum.by != "teacher_entropy" or find_task(task).has_entropy:
        return None
    return f"a {task}'s teacher has no entropy to order samples by; take 'student_loss'"


def selected_indices(
    curriculum: CurriculumConfig | None, logits: Tensor, teacher: Tensor | None, batch: Batch, task: str
) -> Tensor | None:
    """Return the places (K,) of a batch's samples that the loss is taken of; None for all of them.

    Args:
        curriculum: None lets all count.
        logits: (B, C), the student's.
        teacher: (B, C), or None without a teacher.
        batch: labels and progress.
        task: of the data.
    """
    share = 1.0 if curriculum is None else curriculum_share(batch.done, curriculum)
    if curriculum is None or share >= 1:
        return None
    return easiest(difficulty(logits, teacher, batch.labels, curriculum.by, task), share)


def curriculum_share(done: float, curriculum: CurriculumConfig) -> float:
    """Return which share of each batch counts when ``done`` of the training is over; it rises linearly to 1."""
    if done >= curriculum.until:
        return 1.0
    return curriculum.start + (1 - curriculum.start) * done / curriculum.until


def easiest(difficulty: Tensor, share: float) -> Tensor:
    """Return the places (K,) of the easiest ``share`` of a batch, at least one, in the batch's order.

    Args:
        difficulty: (B,), lower is easier.
        share: in (0, 1].
    """
    count = max(1, round(share * len(difficulty)))
    return difficulty.topk(count, largest=False).indices.sort().values


def difficulty(logits: Tensor, teacher: Tensor | None, labels: Tensor, by: str, task: str = "classification") -> Tensor:
    """Return how hard samples are (B,): the entropy of the teacher's classes or labels, or the student's own loss.

    The student's loss is cross-entropy, summed over labels, or the squared error. A regression has no entropy.
    By the teacher's entropy where there is no teacher, all are alike. Samples that are hard for the student because
    their labels are wrong come last too (self-paced learning; Kumar et al., 2010).
    """
    kind = find_task(task)
    if by == "student_loss":
        return kind.losses(logits.detach(), labels)
    if teacher is None:
        return torch.zeros(len(labels), device=labels.device)
    return kind.entropies(teacher)
