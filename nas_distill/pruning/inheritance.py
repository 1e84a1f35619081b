"""Weight inheritance: students begin with the weights of the teacher's most important units."""

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
    """Gives students their initial weights from a teacher's. Made by ``make_inheritance``. Picklable.

    Attributes:
        module: the teacher, with its shortcuts rewritten as the plan says.
        space: of its students.
        data: of the search.
        orders: the units of each group, the most important first, so that narrower students keep a part of the units
            of wider ones.
        samples: training samples by which batch-norm statistics are recalibrated.
        moments: of the inputs of the layers that are reconstructed when they lose some of them.
    """

    module: nn.Module
    space: CutSpace
    data: Dataset
    orders: Mapping[str, Order]
    samples: int
    moments: Mapping[str, Moments] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """What can be cut from the teacher."""
        return self.space.plan

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give a student its initial weights, in place, if its architecture starts from inherited ones.

        Replacements of blocks inherit nothing: they keep the weights that they have.
        """
        if self.inherit(student, self.space.decode(architecture)):
            self.recalibrate_batch_norm(student)

    def inherit(self, student: nn.Module, cut: Cut) -> bool:
        """Give a student the teacher's weights and say whether it inherits; ``recalibrate_batch_norm`` is to follow."""
        if cut.start != INHERITED:
            return False
        with seeded_torch(0, "heir"):  # what is drawn for replacements gives way to the student's own
            student.load_state_dict(self.pruned_teacher(cut, student).state_dict())
        return True

    def recalibrate_batch_norm(self, student: nn.Module) -> None:
        """Estimate a student's batch-norm statistics again, once all its weights are in place."""
        recalibrate_batch_norm(student, self.data, self.samples)

    def pruned_teacher(self, cut: Cut, student: nn.Module | None = None) -> nn.Module:
        """Return the teacher, cut, in eval mode; batch-norm statistics are those of the kept channels.

        Args:
            cut: of the teacher.
            student: has the weights of replaced blocks; without it they are drawn from torch's global generator, which
                the caller seeds.
        """
        kept = cut.units(self.plan, self.orders)
        pruned = copy.deepcopy(self.module)
        reconstruct(pruned, self.plan, kept, self.moments)
        pruned = prune(pruned, self.plan, kept)
        if student is not None:
            for index, replacement in kept.replacements.items():
                if replacement != DROPPED:
                    name = self.plan.blocks[index].module
                    pruned.get_submodule(name).load_state_dict(student.get_submodule(name).state_dict())
        return pruned.requires_grad_(True)


def make_inheritance(
    teacher: Teacher, space: CutSpace, data: Dataset, config: FromTeacherConfig, *, seed: int = 0
) -> WeightInheritance:
    """Order the units of the teacher's groups by importance, and measure the moments that reconstruction takes.

    Looks at ``config.samples`` training samples for each of the two.
    """
    plan = space.plan
    module = rewrite(copy.deepcopy(teacher.module).cpu(), plan.rewrites)
    orders = unit_orders(module, plan, data, criterion=config.importance, samples=config.samples, seed=seed)
    moments = input_moments(module, plan, data, config.samples) if config.reconstruct else {}
    return WeightInheritance(module, space, data, orders, config.samples, moments)


FORMAT = 1


@dataclass(frozen=True)
class Findings:
    """What the space of a teacher's students is made of.

    Attributes:
        plan: what can be cut.
        order: indices of the droppable blocks, the one that goes first at the front; None where depth is no number.
    """

    plan: Plan
    order: tuple[int, ...] | None


def origin_of(teacher: Teacher, data: Dataset, options: FromTeacherConfig) -> dict[str, Any] | None:
    """Return all that findings depend on as JSON values; None where that cannot be told, so that none may be kept.

    That is where the code of a class is in no file, as in a notebook: a change of its ``forward`` would go unseen.
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


def read_findings(path: Path, expected: dict[str, Any]) -> Findings | None:
    """Return what a file holds; None if it is missing or damaged, or if its origin is another one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256") != json_digest(content) or content["origin"] != json.loads(json.dumps(expected)):
            return None
        order = content["order"]
        return Findings(Plan.from_dict(content["plan"]), None if order is None else tuple(order))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SpaceError):
        return None


def write_findings(path: Path, findings: Findings, origin: dict[str, Any]) -> None:
    """Write findings and their origin into a file, atomically.

    Raises:
        OSError: it cannot be written.
    """
    order = None if findings.order is None else list(findings.order)
    content = {"origin": origin, "order": order, "plan": findings.plan.to_dict()}
    # On one line: indented, the places of units would take a line each.
    write_text(path, json.dumps({"sha256": json_digest(content), **content}) + "\n")


def _code(module: nn.Module) -> str | None:
    """Return a digest of the files that the classes of a network are written in; None if one is in no file."""
    classes = {base for part in module.modules() for base in type(part).__mro__ if base.__module__ != "builtins"}
    try:
        files = {inspect.getsourcefile(one) for one in classes}
        contents = sorted(file_digest(Path(file or "")) for file in files)
    except (OSError, TypeError):
        return None
    return text_digest("".join(contents))
