"""Cuts of small teachers of many architectures, counted and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pytest
from torch import nn

from nas_distill.allocation.filling import Filler
from nas_distill.allocation.judge import CutJudge
from nas_distill.allocation.moves import Moves
from nas_distill.allocation.polynomial import CostPolynomial
from nas_distill.config import FromTeacherConfig
from nas_distill.costs.counting import count
from nas_distill.data import Dataset
from nas_distill.pruning.inheritance import WeightInheritance, make_inheritance
from nas_distill.pruning.plan import Cut, Plan
from nas_distill.pruning.replacements import REPLACEMENTS, fits
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.surgery import prune, structure_of
from nas_distill.teacher import freeze
from nas_distill.teacher.signal import LiveSignal
from tests.pruning.networks import SHAPE, data_of, planned

COSTS = ("flops", "params", "weight_bytes")


@dataclass(frozen=True)
class Case:
    """A teacher, its plan, and a space of its cuts."""

    module: nn.Module
    plan: Plan
    space: CutSpace

    @cached_property
    def full(self) -> Mapping[str, float]:
        """Costs of the teacher."""
        return self.costs(self.space.unpruned)

    def costs(self, cut: Cut) -> Mapping[str, float]:
        return count(prune(structure_of(self.module), self.plan, cut.units(self.plan)), SHAPE, COSTS)

    @cached_property
    def polynomial(self) -> CostPolynomial:
        return CostPolynomial.fit(self.space, self.costs, COSTS)

    def moves(self, **shares: float) -> Moves:
        """Return moves under limits that are shares of the teacher's costs."""
        limits = {name: share * self.full[name] for name, share in shares.items()}
        return Moves(Filler(self.space, self.polynomial, limits))

    @cached_property
    def data(self) -> Dataset:
        return data_of(SHAPE)

    @cached_property
    def inheritance(self) -> WeightInheritance:
        return make_inheritance(freeze(self.module, self.data), self.space, self.data, FromTeacherConfig(samples=32))

    def judge(self, samples: int = 48) -> CutJudge:
        return CutJudge.make(self.inheritance, LiveSignal(freeze(self.module, self.data)), samples)


def make_case(name: str, *, multiple: int = 2, numbered: bool = False, replaced: bool = False) -> Case:
    module, plan = planned(name)
    order = [index for index, block in enumerate(plan.blocks) if block.droppable]
    kinds = [kind for kind in REPLACEMENTS if replaced and any(fits(kind, block) for block in plan.blocks)]
    widths = [part / 8 for part in range(1, 9)]
    depth = order if numbered else "each"
    return Case(
        module, plan, CutSpace.from_plan(plan, widths=widths, multiple=multiple, depth=depth, replacements=kinds)
    )


@pytest.fixture(scope="session")
def residual() -> Case:
    return make_case("residual")
