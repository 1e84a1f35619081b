"""Builders of the space of students cut from a teacher, and the exact costs of a cut."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nas_distill.costs.counting import count
from nas_distill.pruning.plan import Cut, KeptUnits, Plan
from nas_distill.pruning.shortcuts import rewrite
from nas_distill.pruning.slots import length, parts_of
from nas_distill.pruning.space import decode
from nas_distill.pruning.surgery import prune, structure_of
from nas_distill.utils.errors import BuildError
from nas_distill.utils.references import accepts_keyword, load_reference
from nas_distill.utils.seeds import seeded_torch


def build(
    *,
    teacher: str,
    plan: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
    paths: Sequence[str] = (),
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    **values: Any,
) -> nn.Module:
    """Build a student: the teacher's structure, cut, with random weights. The teacher's weights are not needed.

    Weights are those of the teacher's own initialisation, scaled so that layers with fewer inputs than the teacher's
    keep the variance of their outputs. Those of a student that inherits are filled in by ``WeightInheritance``.

    Args:
        teacher: its builder, ``package.module:function``.
        plan: what can be cut from it, as ``Plan.to_dict`` writes it.
        arguments: what the teacher's builder is called with, besides ``input_shape`` and ``num_classes`` if it takes
            them.
        paths: folders where its module is looked for.
        input_shape: (channels, height, width).
        num_classes: number of logits.
        values: of the architecture, as ``CutSpace.encode`` writes it; what is missing is not cut.

    Raises:
        ConfigError: the teacher's builder cannot be imported.
        BuildError: it returns no module.
        SpaceError: the values do not fit the plan.
    """
    make = load_reference(teacher, what="the teacher's builder", paths=paths)
    keywords: dict[str, Any] = copy.deepcopy(dict(arguments or {}))
    if isinstance(keywords.get("input_shape"), list):  # as JSON writes it
        keywords["input_shape"] = tuple(keywords["input_shape"])
    for key, value in {"input_shape": tuple(input_shape), "num_classes": num_classes}.items():
        if accepts_keyword(make, key):
            keywords.setdefault(key, value)
    module = make(**keywords)
    if not isinstance(module, nn.Module):
        raise BuildError(f"the teacher's builder {teacher} made a {type(module).__name__}, no torch.nn.Module.")
    return _student(module, Plan.from_dict(plan), values)


class CutBuilder:
    """Builds students of a teacher that is given as a module: it keeps a copy, and no builder is called.

    A copy's weights are drawn again for each student by its layers' own ``reset_parameters``; parameters that stand
    belong to no layer are drawn from a normal distribution with the teacher's mean and deviation. Picklable.
    """

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        self.module = rewrite(copy.deepcopy(module).cpu().train().requires_grad_(True), plan.rewrites)
        self.plan = plan

    def __call__(
        self, *, input_shape: Sequence[int] | None = None, num_classes: int | None = None, **values: Any
    ) -> nn.Module:
        """Build a student; see ``build``. Its input and its classes are those of the module."""
        module = copy.deepcopy(self.module)
        redraw(module)
        return _student(module, self.plan, values)


def redraw(module: nn.Module) -> None:
    """Draw all weights again, in place, from torch's global generator."""
    # Parts first: a module may set what its parts have drawn, as torch's attention does.
    for part in reversed(list(module.modules())):
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(reset):
            reset()
            continue
        for weight in part.parameters(recurse=False):
            with torch.no_grad():
                spread = float(weight.std()) if weight.numel() > 1 else 0.0
                weight.copy_(torch.randn(weight.shape) * spread + float(weight.mean()))


def count_cut(
    module: nn.Module, plan: Plan, cut: Cut, input_shape: Sequence[int], names: Iterable[str] | None = None
) -> dict[str, float]:
    """Return the exact costs of a student, as ``cost.count`` counts them; lower is better.

    They depend on the structure only: weights are shared with the teacher where nothing is cut.

    Args:
        module: the teacher, or its structure; left as it is.
        plan: what can be cut from it.
        cut: the student.
        input_shape: of one sample, without the batch.
        names: of counted costs; all that are counted unless given.

    Raises:
        BudgetError: unknown cost name.
        CostError: the student cannot be recorded.
        SpaceError: the cut is of another plan.
    """
    with seeded_torch(0, "costs"):
        student = prune(structure_of(module), plan, cut.units(plan))
    return count(student, input_shape, names)


def _student(module: nn.Module, plan: Plan, values: Mapping[str, Any]) -> nn.Module:
    kept = decode(plan, values).units(plan)
    before = _inputs(module, plan, kept)
    prune(module, plan, kept)
    for name, inputs in before.items():
        for part in parts_of(module, name, "in"):
            with torch.no_grad():
                part.tensor.mul_(math.sqrt(inputs / part.tensor.shape[part.axis]))
    return module


def _inputs(module: nn.Module, plan: Plan, kept: KeptUnits) -> dict[str, int]:
    """Return how many inputs the layers have that will have fewer, but for those in blocks that are replaced.

    Shortcuts are left out too: each of their outputs is one input, however many there are.
    """
    replaced = tuple(f"{plan.blocks[index].module}." for index in kept.replacements)
    replaced += tuple(f"{one.module}." for one in plan.rewrites)
    return {
        slot.module: length(module, slot.module, "in")
        for name in kept.units
        for slot in plan.group(name).slots
        if slot.side == "in" and not f"{slot.module}.".startswith(replaced)
    }
