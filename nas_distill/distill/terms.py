"""Resolved loss of a training: its terms, their layers, and the features that they need from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_distill.config import TermConfig
from nas_distill.data import Dataset
from nas_distill.distill.objective import Term, find_terms, labels_only
from nas_distill.distill.pairing import TermPairs, pair_layers, teacher_features
from nas_distill.tasks import find_task
from nas_distill.teacher.signal import Feature


@dataclass(frozen=True)
class LossTerms:
    """Loss terms of a training.

    The reductions of the teacher's ``features`` determine whether its answers can be stored; see
    ``Contents.too_large``.
    """

    terms: tuple[Term, ...]
    task: str

    @classmethod
    def of(
        cls,
        loss: Sequence[TermConfig],
        *,
        task: str,
        where: str = "loss",
        paths: Sequence[Path] = (),
        taught: bool = True,
    ) -> LossTerms:
        """Resolve the terms of a search file, without those of weight 0.

        Args:
            loss: the terms of a training.
            task: the task of the data.
            where: the key of the loss, for messages.
            paths: folders to find the modules of a user's own losses in.
            taught: False keeps the term on labels only.

        Raises:
            ConfigError: a loss or option is unknown or for another task, or all weights are 0.
        """
        if taught:
            return cls(tuple(find_terms(loss, where=where, paths=paths, task=task)), task)
        return cls(tuple(labels_only(find_terms(loss, where=where, paths=paths), task)), task)

    def __add__(self, other: LossTerms) -> LossTerms:
        """Return the terms of both, to find the features that both need from a teacher."""
        return LossTerms(self.terms + other.terms, self.task)

    @property
    def temperature(self) -> float | None:
        """Temperature of the term on the teacher's answers; 1 if it has no such option, None without such a term."""
        name = find_task(self.task).answers_loss
        term = next((term for term in self.terms if term.config.name == name), None)
        if term is None:
            return None
        temperature = term.options.get("temperature", 1.0)
        assert isinstance(temperature, float)
        return temperature

    @property
    def reads_layers(self) -> bool:
        """True if any term reads layers of the student or the teacher."""
        return any(term.spec.layers != "none" for term in self.terms)

    def features(self, teacher: nn.Module, data: Dataset) -> tuple[Feature, ...]:
        """Return the features of a teacher that the terms may need; see ``teacher_features``.

        Raises:
            TrainingError: the teacher has no layer of a kind that a term needs, or lacks a layer that a term names.
        """
        return teacher_features(self.terms, teacher, sample_inputs(data))

    def pairs(self, student: nn.Module, features: Sequence[Feature], x: Tensor) -> list[TermPairs]:
        """Return, per term, the layers of a student to tap and the teacher's features to compare them with.

        Args:
            student: the network; its mode is not changed.
            features: the features that the teacher provides.
            x: (B, ...) samples, on the student's device.

        Raises:
            TrainingError: a term finds no layers to compare.
        """
        return [pair_layers(term, student, features, x) for term in self.terms]


def sample_inputs(data: Dataset) -> Tensor:
    """Return a few validation samples (B, ...), on which networks are run to find their layers."""
    return data.batch("val", torch.arange(min(3, len(data.val))))[0]
