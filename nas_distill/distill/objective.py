"""Training objective: a weighted sum of loss terms."""

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
    """A loss term of the search file, with its loss and its validated options."""

    config: TermConfig
    spec: LossSpec
    options: dict[str, object]

    @property
    def weight(self) -> float:
        """Weight in the search file, else the default of the loss."""
        return self.spec.weight if self.config.weight is None else self.config.weight


def find_terms(
    terms: Sequence[TermConfig], *, where: str = "loss", paths: Sequence[Path] = (), task: str | None = None
) -> list[Term]:
    """Return the loss terms that a search file names, without those of weight 0.

    ``task``: the task of the data, if it is known.

    Raises:
        ConfigError: a loss or option is unknown or for another task, or all weights are 0; the message contains
            ``where``.
    """
    found = []
    for index, config in enumerate(terms):
        here = f"{where}.{index}"
        spec = find_loss(config.name, where=here, paths=paths)
        term = Term(config, spec, spec.check(config.options, here))
        _check_layers(config, spec, here)
        if term.weight > 0:
            if task is not None:
                _check_task(spec, task, here)
            found.append(term)
    if not found:
        raise ConfigError(f"'{where}': every weight is 0, so nothing would be learned; set one above 0.")
    return found


def labels_only(terms: Sequence[Term], task: str = "classification") -> list[Term]:
    """Return the terms without a teacher: the term on labels, with its configured options and weight 1."""
    configured = next((term for term in terms if term.config.name == find_task(task).labels_loss), None)
    if configured is None:
        return find_terms([TermConfig(name=find_task(task).labels_loss, weight=1.0)])
    kept = configured.config.model_copy(update={"weight": 1.0, "start": 0.0, "stop": 1.0, "warmup": 0.0})
    return [Term(kept, configured.spec, configured.options)]


class Objective(nn.Module):
    """Weighted sum of loss terms; their learnable parts and memories belong to its state, never to the student's.

    The weight of a term may ramp up and end during the training (see TermConfig).
    """

    def __init__(self, terms: Sequence[Term], shapes: Sequence[Shapes]) -> None:
        super().__init__()
        self.terms = list(terms)
        modules = [
            term.spec.make(shape, **term.options) if _is_module(term.spec) else None
            for term, shape in zip(self.terms, shapes, strict=True)
        ]
        self.modules_of_terms = nn.ModuleDict(
            {str(index): module for index, module in enumerate(modules) if module is not None}
        )

    def forward(self, outputs: Sequence[tuple[Outputs, Outputs | None]], batch: Batch) -> Tensor:
        """Return the weighted sum, a scalar.

        Args:
            outputs: (student's, teacher's) outputs, one pair per term.
            batch: labels, indices and progress.
        """
        total = torch.zeros((), device=batch.labels.device)
        for index, (term, (student, teacher)) in enumerate(zip(self.terms, outputs, strict=True)):
            config = term.config
            weight = term.weight * ramp(batch.done, config.start, config.stop, config.warmup)
            if weight:
                total = total + weight * self._value(index, term, student, teacher, batch)
        return total

    def _value(self, index: int, term: Term, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        key = str(index)
        if key in self.modules_of_terms:
            value: Tensor = self.modules_of_terms[key](student, teacher, batch)
            return value
        value = term.spec.make(student, teacher, batch, **term.options)
        return value


def _check_task(spec: LossSpec, task: str, where: str) -> None:
    kind = find_task(task)
    # A user's task accepts the losses of the task that it is a subclass of.
    if spec.tasks and not any(isinstance(kind, type(find_task(name, where=where))) for name in spec.tasks):
        raise ConfigError(
            f"{where}: the loss '{spec.name}' is for {' and '.join(spec.tasks)}, and the task is {task}; use "
            f"'{kind.labels_loss}' for the labels and '{kind.answers_loss}' for the teacher's outputs."
        )


def _check_layers(config: TermConfig, spec: LossSpec, where: str) -> None:
    if config.layers == "auto":
        return
    if spec.layers == "none":
        raise ConfigError(f"{where}: the loss '{config.name}' does not compare layers; remove 'layers'.")
    if spec.own and not all(isinstance(name, str) for name in config.layers):
        raise ConfigError(
            f"{where}: the loss '{config.name}' reads no layers of the teacher; list names of the student's only."
        )
    if not spec.own and any(isinstance(name, str) for name in config.layers):
        raise ConfigError(
            f"{where}: the loss '{config.name}' compares layers with the teacher's; list pairs "
            "[student's layer, teacher's layer]."
        )


def _is_module(spec: LossSpec) -> bool:
    return isinstance(spec.make, type) and issubclass(spec.make, Loss)
