"""Builders of the space of students cut from a teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nas_distill.common.errors import BuildError
from nas_distill.common.references import load_reference, takes
from nas_distill.cut.plan import Plan
from nas_distill.cut.shortcuts import rewrite
from nas_distill.cut.space import cut_of
from nas_distill.cut.surgery import Cut, cut
from nas_distill.cut.weights import length, parts_of


def build(
    *,
    teacher: str,
    plan: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
    paths: Sequence[str] = (),
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    start: str = "inherited",
    depth: int | None = None,
    shared: Sequence[Mapping[str, Any]] = (),
    blocks: Sequence[Mapping[str, Any]] = (),
) -> nn.Module:
    """Build a student: the teacher's structure, cut, with random weights. The teacher's weights are not needed.

    Weights are those of the teacher's own initialisation, scaled so that layers with fewer inputs than the teacher's
    keep the variance of their outputs. Those of a student that inherits are filled in by the ``Ancestor``.

    Args:
        teacher: its builder, ``package.module:function``.
        plan: what can be cut from it, as ``Plan.to_dict`` writes it.
        arguments: what the teacher's builder is called with, besides ``input_shape`` and ``num_classes`` if it takes
            them.
        paths: folders where its module is looked for.
        input_shape: (channels, height, width).
        num_classes: number of logits.
        start: ``inherited`` or ``random``: what the student begins with; the structure is the same.
        depth: how many of the droppable blocks stay, in a space where that is a number.
        shared: widths of the shared groups.
        blocks: kinds and inner widths of the blocks.

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
        if takes(make, key):
            keywords.setdefault(key, value)
    module = make(**keywords)
    if not isinstance(module, nn.Module):
        raise BuildError(f"the teacher's builder {teacher} made a {type(module).__name__}, no torch.nn.Module.")
    return _student(module, Plan.from_dict(plan), depth, shared, blocks)


class CutBuilder:
    """Builds students of a teacher that is given as a module: it keeps a copy, and no builder is called.

    A copy's weights are drawn anew for each student by its layers' own ``reset_parameters``; parameters that stand
    alone are drawn from a normal distribution with the teacher's mean and deviation. Picklable.
    """

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        self.module = rewrite(copy.deepcopy(module).cpu().train().requires_grad_(True), plan.rewrites)
        self.plan = plan

    def __call__(
        self,
        *,
        start: str = "inherited",
        depth: int | None = None,
        shared: Sequence[Mapping[str, Any]] = (),
        blocks: Sequence[Mapping[str, Any]] = (),
    ) -> nn.Module:
        """Build a student; see ``build``."""
        module = copy.deepcopy(self.module)
        redraw(module)
        return _student(module, self.plan, depth, shared, blocks)


def redraw(module: nn.Module) -> None:
    """Draw all weights anew, in place, from torch's global generator."""
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


def _student(
    module: nn.Module,
    plan: Plan,
    depth: int | None,
    shared: Sequence[Mapping[str, Any]],
    blocks: Sequence[Mapping[str, Any]],
) -> nn.Module:
    values: dict[str, Any] = {"shared": shared, "blocks": blocks}
    if depth is not None:
        values["depth"] = depth
    what = cut_of(plan, values)
    before = _inputs(module, plan, what)
    cut(module, plan, what)
    for name, inputs in before.items():
        for part in parts_of(module, name, "in"):
            with torch.no_grad():
                part.tensor.mul_(math.sqrt(inputs / part.tensor.shape[part.axis]))
    return module


def _inputs(module: nn.Module, plan: Plan, what: Cut) -> dict[str, int]:
    """Return how many inputs the layers have that will have fewer, but for those in blocks that are replaced.

    Shortcuts are left out too: each of their outputs is one input, however many there are.
    """
    replaced = tuple(f"{plan.blocks[index].module}." for index in what.kinds)
    replaced += tuple(f"{one.module}." for one in plan.rewrites)
    return {
        slot.module: length(module, slot.module, "in")
        for name in what.keep
        for slot in plan.group(name).slots
        if slot.side == "in" and not f"{slot.module}.".startswith(replaced)
    }
