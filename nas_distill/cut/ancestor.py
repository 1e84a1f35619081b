"""The teacher as what students are cut from: its weights, in the order of their importance."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nas_distill.common.seeds import seeded_torch
from nas_distill.config import FromTeacherConfig
from nas_distill.cut.importance import Order, unit_orders
from nas_distill.cut.plan import Plan
from nas_distill.cut.reconstruction import Moments, input_moments, reconstruct
from nas_distill.cut.shortcuts import rewrite
from nas_distill.cut.space import cut_of
from nas_distill.cut.statistics import reestimate
from nas_distill.cut.surgery import cut
from nas_distill.data import Dataset
from nas_distill.space import Architecture
from nas_distill.teacher import Teacher


@dataclass(frozen=True)
class Ancestor:
    """Gives students of a space that was cut from ``module`` its weights. Make one with ``make_ancestor``.

    ``orders`` has the units of each group, the most important first, so that narrower students hold a part of what
    wider ones hold. ``samples`` are looked at to re-estimate batch-norm statistics. Layers that have ``moments`` make
    up for the inputs that they lose. Picklable: it goes to every worker.
    """

    module: nn.Module
    plan: Plan
    data: Dataset
    orders: Mapping[str, Order]
    start: str
    samples: int
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give a student its initial weights, in place, if its architecture starts from inherited ones.

        Blocks of a cheaper kind have no forebear: they keep the weights they have.
        """
        if self.pass_on(student, architecture):
            self.settle(student)

    def pass_on(self, student: nn.Module, architecture: Architecture) -> bool:
        """Give a student the teacher's weights and say whether it inherits; ``settle`` is to follow."""
        values = architecture.to_dict()
        if not inherits(values, self.start):
            return False
        with seeded_torch(0, "heir"):  # what is drawn for cheaper kinds gives way to the student's own
            student.load_state_dict(self.heir(values, student).state_dict())
        return True

    def settle(self, student: nn.Module) -> None:
        """Work out a student's batch-norm statistics anew, once all its weights are in place."""
        reestimate(student, self.data, self.samples)

    def heir(self, values: Mapping[str, Any], student: nn.Module | None = None) -> nn.Module:
        """Return the teacher cut as ``values`` say, in eval mode; batch-norm statistics are those of the kept channels.

        ``student``: has the weights of what the teacher has no forebear of; without it they are drawn from torch's
        global generator, which the caller seeds.
        """
        what = cut_of(self.plan, values, self.orders)
        heir = copy.deepcopy(self.module)
        reconstruct(heir, self.plan, what, self.moments)
        heir = cut(heir, self.plan, what)
        if student is not None:
            for index, kind in what.kinds.items():
                if kind != "drop":
                    name = self.plan.blocks[index].module
                    heir.get_submodule(name).load_state_dict(student.get_submodule(name).state_dict())
        return heir.requires_grad_(True)


def inherits(values: Mapping[str, Any], start: str) -> bool:
    """Say whether an architecture of a space with this ``start`` begins with the teacher's weights."""
    return (values.get("start") if start == "both" else start) == "inherited"


def make_ancestor(teacher: Teacher, plan: Plan, data: Dataset, config: FromTeacherConfig, *, seed: int = 0) -> Ancestor:
    """Order the units of the teacher's groups by importance, and note what layers can make up for of what they lose.

    Looks at ``config.samples`` training samples for each of the two.
    """
    module = rewrite(copy.deepcopy(teacher.module).cpu(), plan.rewrites)
    orders = unit_orders(module, plan, data, criterion=config.importance, samples=config.samples, seed=seed)
    moments = input_moments(module, plan, data, config.samples) if config.reconstruct else {}
    return Ancestor(module, plan, data, orders, config.start, config.samples, moments)
