"""Builders of students cut from a teacher, and the exact costs of a cut."""

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
from nas_distill.pruning.slots import length, tensors_of
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
    """Build a student: the teacher's structure, pruned, with random weights. The teacher's weights are not needed.

    Weights are those of the teacher's own initialisation, scaled so that layers with fewer inputs than the teacher's
    keep the variance of their outputs. ``WeightInheritance`` fills in those of a student that inherits.

    Args:
        teacher: the teacher's builder, ``package.module:function``.
        plan: the pruning plan, as ``Plan.to_dict`` returns it.
        arguments: keywords of the teacher's builder, besides ``input_shape`` and ``num_classes`` if it takes them.
        paths: folders in which the builder's module is searched.
        input_shape: (channels, height, width).
        num_classes: number of logits.
        values: parameters of the architecture, as ``CutSpace.encode`` returns them; groups and blocks that are missing
            are not cut.

    Raises:
        ConfigError: the teacher's builder cannot be imported.
        BuildError: it does not return a module.
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
        raise BuildError(
            f"the teacher's builder {teacher} returned a {type(module).__name__}; it must return a torch.nn.Module."
        )
    return _student(module, Plan.from_dict(plan), values)


class CutBuilder:
    """Builder of students of a teacher that is given as a module, which it copies; no user builder is called.

    Weights are drawn again for each student by the layers' own ``reset_parameters``; parameters outside of such layers
    are drawn from a normal distribution with the teacher's mean and standard deviation. Picklable.
    """

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        self.module = rewrite(copy.deepcopy(module).cpu().train().requires_grad_(True), plan.rewrites)
        self.plan = plan

    def __call__(
        self, *, input_shape: Sequence[int] | None = None, num_classes: int | None = None, **values: Any
    ) -> nn.Module:
        """Build a student; see ``build``. Input shape and classes are those of the module."""
        module = copy.deepcopy(self.module)
        redraw(module)
        return _student(module, self.plan, values)


def redraw(module: nn.Module) -> None:
    """Draw all weights again, in place, from torch's global generator."""
    # Submodules first: a module may overwrite the weights that its submodules have drawn, as torch's attention does.
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
    """Return the exact costs of a student, as ``costs.count`` counts them; lower is better.

    They depend only on the structure: weights are shared with the teacher where nothing is cut.

    Args:
        module: the teacher, or its structure; not changed.
        plan: its pruning plan.
        cut: the student.
        input_shape: of one sample, without the batch.
        names: of counted costs; all if None.

    Raises:
        BudgetError: a cost name is unknown.
        CostError: the forward pass of the student cannot be traced.
        SpaceError: the cut does not fit the plan.
    """
    with seeded_torch(0, "costs"):
        student = prune(structure_of(module), plan, cut.units(plan))
    return count(student, input_shape, names)


def _student(module: nn.Module, plan: Plan, values: Mapping[str, Any]) -> nn.Module:
    kept = decode(plan, values).units(plan)
    before = _inputs(module, plan, kept)
    prune(module, plan, kept)
    for name, inputs in before.items():
        for part in tensors_of(module, name, "in"):
            with torch.no_grad():
                part.tensor.mul_(math.sqrt(inputs / part.tensor.shape[part.axis]))
    return module


def _inputs(module: nn.Module, plan: Plan, kept: KeptUnits) -> dict[str, int]:
    """Return the number of inputs of each layer that will have fewer, except for layers in replaced blocks.

    Rewritten shortcuts are excluded too: each of their outputs copies one input, whatever the number of inputs.
    """
    replaced = tuple(f"{plan.blocks[index].module}." for index in kept.replacements)
    replaced += tuple(f"{one.module}." for one in plan.rewrites)
    return {
        slot.module: length(module, slot.module, "in")
        for name in kept.units
        for slot in plan.group(name).slots
        if slot.side == "in" and not f"{slot.module}.".startswith(replaced)
    }
