"""The training objective: a weighted sum of loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_distill.config import TermConfig
from nas_distill.distill.losses import Batch, Loss, LossSpec, Outputs, Shapes, find_loss
from nas_distill.distill.schedule import ramp
from nas_distill.tasks import find_task
from nas_distill.utils.errors import ConfigError


@dataclass(frozen=True)
class Term:
    """A term of the search file with its loss found and its options checked."""

    config: TermConfig
    spec: LossSpec
    options: dict[str, object]

    @property
    def weight(self) -> float:
        """Its weight: the search file's, else the loss's own."""
        return self.spec.weight if self.config.weight is None else self.config.weight


def find_terms(
    terms: Sequence[TermConfig], *, where: str = "loss", paths: Sequence[Path] = (), task: str | None = None
) -> list[Term]:
    """Find the losses that a search file names, those of weight 0 left out.

    ``task``: of the data that they are for, if that is known.

    Raises:
        ConfigError: an unknown loss or option, one that is of another task, or nothing to learn; names the place,
            ``where``.
    """
    found = []
    for place, config in enumerate(terms):
        here = f"{where}.{place}"
        spec = find_loss(config.name, where=here, paths=paths)
        term = Term(config, spec, spec.check(config.options, here))
        _check_layers(config, spec, here)
        if term.weight > 0:
            if task is not None:
                _check_task(spec, task, here)
            found.append(term)
    if not found:
        raise ConfigError(f"'{where}': every weight is 0, which leaves nothing to learn.")
    return found


def labels_only(terms: Sequence[Term], task: str = "classification") -> list[Term]:
    """Return what is left without a teacher: the labels' term of weight 1, with the options that it has beside one."""
    given = next((term for term in terms if term.config.name == find_task(task).labels_loss), None)
    if given is None:
        return find_terms([TermConfig(name=find_task(task).labels_loss, weight=1.0)])
    kept = given.config.model_copy(update={"weight": 1.0, "start": 0.0, "stop": 1.0, "warmup": 0.0})
    return [Term(kept, given.spec, given.options)]


class Objective(nn.Module):
    """The weighted sum of terms; what is learnable or remembered in them is its own state, never the student's.

    Each term has a weight that may rise and end over the training (see TermConfig).
    """

    def __init__(self, terms: Sequence[Term], shapes: Sequence[Shapes]) -> None:
        super().__init__()
        self.terms = list(terms)
        made = [
            term.spec.make(shape, **term.options) if _is_module(term.spec) else None
            for term, shape in zip(self.terms, shapes, strict=True)
        ]
        self.modules_of_terms = nn.ModuleDict(
            {str(place): module for place, module in enumerate(made) if module is not None}
        )

    def forward(self, outputs: Sequence[tuple[Outputs, Outputs | None]], batch: Batch) -> Tensor:
        """Return the sum, a scalar.

        Args:
            outputs: (student's, teacher's) outputs, one pair a term.
            batch: labels, places and progress.
        """
        total = torch.zeros((), device=batch.labels.device)
        for place, (term, (student, teacher)) in enumerate(zip(self.terms, outputs, strict=True)):
            config = term.config
            weight = term.weight * ramp(batch.done, config.start, config.stop, config.warmup)
            if weight:
                total = total + weight * self._value(place, term, student, teacher, batch)
        return total

    def _value(self, place: int, term: Term, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        key = str(place)
        if key in self.modules_of_terms:
            value: Tensor = self.modules_of_terms[key](student, teacher, batch)
            return value
        value = term.spec.make(student, teacher, batch, **term.options)
        return value


def _check_task(spec: LossSpec, task: str, where: str) -> None:
    kind = find_task(task)
    # A user's own task reads what the task that it is a subclass of reads.
    if spec.tasks and not any(isinstance(kind, type(find_task(name, where=where))) for name in spec.tasks):
        raise ConfigError(
            f"{where}: the loss '{spec.name}' is for {' and '.join(spec.tasks)}, and the data are of {task}; take "
            f"'{kind.labels_loss}' for the labels and '{kind.answers_loss}' for the teacher's outputs."
        )


def _check_layers(config: TermConfig, spec: LossSpec, where: str) -> None:
    if config.layers == "auto":
        return
    if spec.layers == "none":
        raise ConfigError(f"{where}: the loss '{config.name}' compares no layers, so 'layers' means nothing to it.")
    if spec.own and not all(isinstance(name, str) for name in config.layers):
        raise ConfigError(
            f"{where}: the loss '{config.name}' reads no layers of the teacher; list names of the student's alone."
        )
    if not spec.own and any(isinstance(name, str) for name in config.layers):
        raise ConfigError(
            f"{where}: the loss '{config.name}' compares layers with the teacher's; list pairs "
            "[student's layer, teacher's layer]."
        )


def _is_module(spec: LossSpec) -> bool:
    return isinstance(spec.make, type) and issubclass(spec.make, Loss)
