"""Curriculum learning: training on the easiest samples of each batch first."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.config import CurriculumConfig
from nas_distill.distill.losses import Batch
from nas_distill.tasks import find_task


def curriculum_error(curriculum: CurriculumConfig | None, task: str) -> str | None:
    """Return why a curriculum cannot order the samples of a task, without a full stop; None if it can."""
    if curriculum is None or curriculum.by != "teacher_entropy" or find_task(task).has_entropy:
        return None
    return f"the outputs of a {task} teacher have no entropy to order samples by; use 'student_loss'"


def selected_indices(
    curriculum: CurriculumConfig | None, logits: Tensor, teacher: Tensor | None, batch: Batch, task: str
) -> Tensor | None:
    """Return the indices (K,) of the samples of a batch that the loss includes; None for all.

    Args:
        curriculum: None includes all samples.
        logits: (B, C), the student's.
        teacher: (B, C), or None without a teacher.
        batch: labels and progress.
        task: the task of the data.
    """
    share = 1.0 if curriculum is None else curriculum_share(batch.done, curriculum)
    if curriculum is None or share >= 1:
        return None
    return easiest(difficulty(logits, teacher, batch.labels, curriculum.by, task), share)


def curriculum_share(done: float, curriculum: CurriculumConfig) -> float:
    """Return the share of each batch to include after the share ``done`` of the training; it rises linearly to 1."""
    if done >= curriculum.until:
        return 1.0
    return curriculum.start + (1 - curriculum.start) * done / curriculum.until


def easiest(difficulty: Tensor, share: float) -> Tensor:
    """Return the indices (K,) of the easiest ``share`` of a batch, at least one, in the order of the batch.

    Args:
        difficulty: (B,), lower is easier.
        share: in (0, 1].
    """
    count = max(1, round(share * len(difficulty)))
    return difficulty.topk(count, largest=False).indices.sort().values


def difficulty(logits: Tensor, teacher: Tensor | None, labels: Tensor, by: str, task: str = "classification") -> Tensor:
    """Return the difficulty (B,) of samples: the entropy of the teacher's outputs, or the student's own loss.

    The student's loss is cross-entropy, summed over labels, or the squared error. A regression has no entropy. Without
    a teacher, the entropy of all samples is 0. With the student's loss, samples with wrong labels come last too
    (self-paced learning; Kumar et al., 2010).
    """
    kind = find_task(task)
    if by == "student_loss":
        return kind.losses(logits.detach(), labels)
    if teacher is None:
        return torch.zeros(len(labels), device=labels.device)
    return kind.entropies(teacher)
