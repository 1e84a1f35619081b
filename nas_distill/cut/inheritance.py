"""Weight inheritance: students cut from a teacher begin with the weights of its most important units."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from nas_distill.common.seeds import seeded_torch
from nas_distill.config import FromTeacherConfig
from nas_distill.cut.cuts import INHERITED, Cut
from nas_distill.cut.importance import Order, unit_orders
from nas_distill.cut.plan import DROPPED, Plan
from nas_distill.cut.reconstruction import Moments, input_moments, reconstruct
from nas_distill.cut.shortcuts import rewrite
from nas_distill.cut.space import CutSpace
from nas_distill.cut.statistics import recalibrate_batch_norm
from nas_distill.cut.surgery import prune
from nas_distill.data import Dataset
from nas_distill.space import Architecture
from nas_distill.teacher import Teacher


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
