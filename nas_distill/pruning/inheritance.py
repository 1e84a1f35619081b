"""Weight inheritance: initial weights of students from the teacher's most important units, and the cached plan."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from nas_distill.config import FromTeacherConfig
from nas_distill.data import Dataset
from nas_distill.pruning.importance import Order, unit_orders
from nas_distill.pruning.plan import DROPPED, INHERITED, Cut, Plan
from nas_distill.pruning.reconstruction import Moments, input_moments, reconstruct
from nas_distill.pruning.shortcuts import rewrite
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.statistics import recalibrate_batch_norm
from nas_distill.pruning.surgery import prune
from nas_distill.spaces import Architecture
from nas_distill.teacher import Teacher
from nas_distill.utils.checkpoints import file_digest, json_digest, text_digest
from nas_distill.utils.errors import SpaceError
from nas_distill.utils.files import write_text
from nas_distill.utils.seeds import seeded_torch


@dataclass(frozen=True)
class WeightInheritance:
    """The teacher's weights as initial weights of its students; made by ``make_inheritance``. Picklable.

    Attributes:
        module: the teacher, with its shortcuts rewritten by the plan.
        space: of its students.
        data: of the search.
        orders: the units of each group, the most important first, so that narrower students keep a subset of the units
            of wider ones.
        samples: number of training samples that recalibrate batch-norm statistics.
        moments: input moments of the layers to reconstruct, by name.
    """

    module: nn.Module
    space: CutSpace
    data: Dataset
    orders: Mapping[str, Order]
    samples: int
    moments: Mapping[str, Moments] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The pruning plan of the teacher."""
        return self.space.plan

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give a student its inherited weights, in place, if its architecture starts from such.

        Replacements of blocks inherit nothing and keep their own weights.
        """
        if self.inherit(student, self.space.decode(architecture)):
            self.recalibrate_batch_norm(student)

    def inherit(self, student: nn.Module, cut: Cut) -> bool:
        """Give a student the teacher's weights; return whether it inherits. Call ``recalibrate_batch_norm`` next."""
        if cut.start != INHERITED:
            return False
        with seeded_torch(0, "inheritance"):  # weights drawn for replacements are overwritten by the student's own
            student.load_state_dict(self.pruned_teacher(cut, student).state_dict())
        return True

    def recalibrate_batch_norm(self, student: nn.Module) -> None:
        """Estimate a student's batch-norm statistics again, after all its weights are set."""
        recalibrate_batch_norm(student, self.data, self.samples)

    def pruned_teacher(self, cut: Cut, student: nn.Module | None = None) -> nn.Module:
        """Return a pruned copy of the teacher; see the function ``pruned_teacher``."""
        return pruned_teacher(self.module, self.plan, cut, self.orders, self.moments, student)


def pruned_teacher(
    module: nn.Module,
    plan: Plan,
    cut: Cut,
    orders: Mapping[str, Order],
    moments: Mapping[str, Moments],
    student: nn.Module | None = None,
) -> nn.Module:
    """Return a pruned copy of the teacher in eval mode; batch-norm statistics are those of the kept channels.

    Args:
        module: the teacher, with its shortcuts rewritten by the plan.
        plan: its pruning plan.
        cut: of the teacher.
        orders: the units of each group, the most important first.
        moments: input moments of the layers to reconstruct, by name.
        student: the source of the weights of replaced blocks; if None, they are drawn from torch's global generator,
            which the caller seeds.
    """
    kept = cut.units(plan, orders)
    pruned = copy.deepcopy(module)
    reconstruct(pruned, plan, kept, moments)
    pruned = prune(pruned, plan, kept)
    if student is not None:
        for index, replacement in kept.replacements.items():
            if replacement != DROPPED:
                name = plan.blocks[index].module
                pruned.get_submodule(name).load_state_dict(student.get_submodule(name).state_dict())
    return pruned.requires_grad_(True)


def make_inheritance(
    teacher: Teacher, space: CutSpace, data: Dataset, config: FromTeacherConfig, *, seed: int = 0
) -> WeightInheritance:
    """Order the units of the teacher's groups by importance, and measure the moments that reconstruction needs.

    Each of the two uses ``config.samples`` training samples.
    """
    plan = space.plan
    module = rewrite(copy.deepcopy(teacher.module).cpu(), plan.rewrites)
    orders = unit_orders(module, plan, data, criterion=config.importance, samples=config.samples, seed=seed)
    moments = input_moments(module, plan, data, config.samples) if config.reconstruct else {}
    return WeightInheritance(module, space, data, orders, config.samples, moments)


FORMAT = 1


@dataclass(frozen=True)
class CachedPlan:
    """The results of analysing a teacher, which a file in the run's folder keeps.

    Attributes:
        plan: the pruning plan.
        order: indices of the droppable blocks in the order in which they are dropped; None without a depth order.
    """

    plan: Plan
    order: tuple[int, ...] | None


def plan_cache_key(teacher: Teacher, data: Dataset, options: FromTeacherConfig) -> dict[str, Any] | None:
    """Return everything that a cached plan depends on as JSON values; None if the plan must not be cached.

    That is the case if the source of a class is not in a file, as in a notebook: a change of its ``forward`` would not
    be noticed.
    """
    code = _code(teacher.module)
    if code is None:
        return None
    measured = [data.fingerprint, data.views.recipe(), options.samples] if options.depth == "redundancy" else None
    return {
        "format": FORMAT,
        "teacher": teacher.fingerprint,
        "code": code,
        "input_shape": list(data.input_shape),
        "blocks": None if options.blocks is None else list(options.blocks),
        "depth": options.depth if options.depth in ("redundancy", "position") else None,
        "measured": measured,
    }


def read_cached_plan(path: Path, key: dict[str, Any]) -> CachedPlan | None:
    """Return the plan in a file; None if the file is missing or damaged, or has another key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256") != json_digest(content) or content["origin"] != json.loads(json.dumps(key)):
            return None
        order = content["order"]
        return CachedPlan(Plan.from_dict(content["plan"]), None if order is None else tuple(order))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SpaceError):
        return None


def write_cached_plan(path: Path, cached: CachedPlan, key: dict[str, Any]) -> None:
    """Write a plan and its key into a file, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    order = None if cached.order is None else list(cached.order)
    content = {"origin": key, "order": order, "plan": cached.plan.to_dict()}
    # On one line: with indentation, each index of a unit would take a line.
    write_text(path, json.dumps({"sha256": json_digest(content), **content}) + "\n")


def _code(module: nn.Module) -> str | None:
    """Return a digest of the source files of a network's classes; None if a class has no source file."""
    classes = {base for part in module.modules() for base in type(part).__mro__ if base.__module__ != "builtins"}
    try:
        files = {inspect.getsourcefile(one) for one in classes}
        contents = sorted(file_digest(Path(file or "")) for file in files)
    except (OSError, TypeError):
        return None
    return text_digest("".join(contents))
