"""The loss of a training, resolved: its terms, the layers that they read, and what they ask of a teacher."""

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
    """The terms of the loss of a training.

    What they ask of a teacher (``features``) says by each feature's reduction whether its answers can be stored; see
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
        """Resolve the terms of a search file; those of weight 0 are left out.

        Args:
            loss: of a training.
            task: of the data.
            where: the key of the loss, for messages.
            paths: where modules of a user's own losses are looked for.
            taught: False leaves the labels' term only.

        Raises:
            ConfigError: an unknown loss or option, one of another task, or nothing to learn.
        """
        if taught:
            return cls(tuple(find_terms(loss, where=where, paths=paths, task=task)), task)
        return cls(tuple(labels_only(find_terms(loss, where=where, paths=paths), task)), task)

    def __add__(self, other: LossTerms) -> LossTerms:
        """Return the terms of both, for what both ask of a teacher."""
        return LossTerms(self.terms + other.terms, self.task)

    @property
    def temperature(self) -> float | None:
        """Temperature of the term that reads a teacher's answers: 1 where it has none, None without such a term."""
        name = find_task(self.task).answers_loss
        term = next((term for term in self.terms if term.config.name == name), None)
        if term is None:
            return None
        given = term.options.get("temperature", 1.0)
        assert isinstance(given, float)
        return given

    @property
    def reads_layers(self) -> bool:
        """Whether any term reads layers, of the student or of a teacher."""
        return any(term.spec.layers != "none" for term in self.terms)

    def features(self, teacher: nn.Module, data: Dataset) -> tuple[Feature, ...]:
        """Return the layers of a teacher that the terms may ask for, and what of them.

        Raises:
            TrainingError: the teacher has no layer of a kind that a term needs, or none of the name that it gives.
        """
        return teacher_features(self.terms, teacher, sample_inputs(data))

    def pairs(self, student: nn.Module, features: Sequence[Feature], x: Tensor) -> list[TermPairs]:
        """Return, for each term, the layers of a student to tap and the teacher's features to compare them with.

        Args:
            student: in the mode in which it is to be left.
            features: that the teacher delivers.
            x: (B, ...) samples, on the student's device.

        Raises:
            TrainingError: a term finds nothing to compare.
        """
        return [pair_layers(term, student, features, x) for term in self.terms]


def sample_inputs(data: Dataset) -> Tensor:
    """Return the few validation samples (B, ...) on which networks are run to find their layers."""
    return data.batch("val", torch.arange(min(3, len(data.val))))[0]
