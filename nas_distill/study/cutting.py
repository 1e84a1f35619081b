"""Searches over students that are pruned from the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nas_distill.config import (
    INHERITED_LR,
    RECONSTRUCTED_LR,
    FromTeacherConfig,
    SearchFile,
    TrainingConfig,
    change_trainings,
    parse,
)
from nas_distill.costs.budget import Budget
from nas_distill.costs.registry import cost_info
from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.engine.survey import Survey
from nas_distill.pruning.backbone import HOW_TO_NAME
from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.depth import depth_order
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import (
    CachedPlan,
    WeightInheritance,
    make_inheritance,
    plan_cache_key,
    read_cached_plan,
    write_cached_plan,
)
from nas_distill.pruning.plan import Plan
from nas_distill.pruning.shortcuts import rewritten
from nas_distill.pruning.space import CutSpace, multiple_for
from nas_distill.reports import formatting
from nas_distill.runs.metadata import Phase
from nas_distill.spaces import SearchSpace
from nas_distill.teacher import Teacher
from nas_distill.teacher.teacher import teacher_builder
from nas_distill.utils.errors import ConfigError

FROM_TEACHER = "from_teacher"
_BUILD = "nas_distill.pruning.build:build"
_SHOWN = 5
ALLOCATED_TRIALS = 12
"""Trials of an allocation unless the search file says otherwise; other candidates are judged without one."""
FINE_WIDTHS = tuple(part / 16 for part in range(1, 17))
"""Shares of widths that an allocation chooses from unless the search file says otherwise."""
FINE_MULTIPLE = 4
"""Multiple of widths likewise, where no limit is measured."""
_SCARCE = 0.02
"""Share of candidates within the budget below which the search gives advice."""
_COMPARED = 4
"""Samples on which rewritten layers must equal the teacher's."""


@dataclass(frozen=True)
class Cutting:
    """A teacher with the space of students that are cut from it.

    ``cuts`` is the space of cuts; ``space`` is the same space as parameters.
    """

    config: FromTeacherConfig
    teacher: Teacher
    cached: CachedPlan
    cuts: CutSpace
    space: SearchSpace
    data: Dataset
    seed: int

    @property
    def plan(self) -> Plan:
        """The pruning plan of the teacher."""
        return self.cached.plan

    @property
    def inherits(self) -> bool:
        """True if students may start from the teacher's weights."""
        return self.config.start != "random"

    @cached_property
    def inheritance(self) -> WeightInheritance:
        """Initial weights of students; the importance of the teacher's units is measured at first use."""
        return make_inheritance(self.teacher, self.cuts, self.data, self.config, seed=self.seed)


def with_strategy(config: SearchFile, space: Any) -> tuple[SearchFile, list[str]]:
    """Return the search file with the strategy that ``auto`` represents, and a sentence about it."""
    search = config.search
    if search.strategy != "auto":
        return config, []
    allocates = is_from_teacher(space) and _options(space, config).start == "inherited" and has_upper_limit(config)
    changes: dict[str, Any] = {"strategy": "allocate" if allocates else "sample"}
    if allocates and "trials" not in search.model_fields_set:
        changes["trials"] = ALLOCATED_TRIALS
    config = config.model_copy(update={"search": search.model_copy(update=changes)})
    if not allocates:
        return config, []
    return config, [
        f"Strategy: allocate, {config.allocation.candidates} candidates judged before training and the best "
        f"{config.search.trials} distilled in short; search: {{strategy: sample}} takes the sampler."
    ]


def has_upper_limit(config: SearchFile) -> bool:
    """Return True if the budget has an upper limit; percentages need not be known."""
    known = dict.fromkeys(config.budget, 1.0)  # of the teacher, since only the form of the limits matters
    return any(limit.high is not None for limit in Budget.parse(config.budget, known).limits.values())


def with_start_learning_rates(config: SearchFile, cutting: Cutting | None) -> tuple[SearchFile, list[str]]:
    """Return the search file with learning rates for the students' initial weights, and a sentence about them.

    A rate or an optimiser that the file sets stays, and so does the default rate with random weights.
    """
    if cutting is None or not cutting.inherits:
        return config, []
    reconstructed = cutting.config.reconstruct or cutting.config.start == "both"
    rate = RECONSTRUCTED_LR if reconstructed else INHERITED_LR

    def slower(training: TrainingConfig) -> Mapping[str, Any]:
        optimizer = training.optimizer
        if "lr" in optimizer.model_fields_set or optimizer.name != "sgd":
            return {}
        return {"optimizer": optimizer.model_copy(update={"lr": rate})}

    config, sections = change_trainings(config, slower)
    if not sections:
        return config, []
    weights = "reconstructed" if reconstructed else "inherited"
    return config, [
        f"Learning rate of {' and '.join(sections)}: {rate:g}, measured for students that start from {weights} "
        "weights; optimizer: {lr: ...} sets another."
    ]


def unordered_inheritance(cutting: Cutting | None) -> WeightInheritance | None:
    """Return weight inheritance without an order of importance, for timing: it takes as long and measures nothing."""
    if cutting is None or not cutting.inherits:
        return None
    module = rewritten(cutting.teacher.module, cutting.plan.rewrites)
    return WeightInheritance(module, cutting.cuts, cutting.data, {}, cutting.config.samples)


def is_from_teacher(space: Any) -> bool:
    """Return True if a search file's space is cut from the teacher."""
    return space == FROM_TEACHER or (isinstance(space, Mapping) and FROM_TEACHER in space)


def prune_teacher(
    space: Any,
    config: SearchFile,
    teacher: Teacher,
    data: Dataset,
    stored: Path | None = None,
    on_phase: Callable[[str], None] | None = None,
) -> Cutting:
    """Find the pruning plan of the teacher, and make the space of students that are cut from it.

    Args:
        space: ``from_teacher``, or ``{from_teacher: {...}}``.
        config: the search file; where it names the teacher's builder, that builds students.
        teacher: the network that is cut.
        data: samples of its input shape.
        stored: a file of ``cache_plan``; a plan of this teacher in it is used again.
        on_phase: called with the phase when the plan has to be found.

    Raises:
        ConfigError: a key of the section is wrong.
        SpaceError: nothing in the teacher can be cut.
    """
    options = _options(space, config)
    cached = _read_cache(stored, teacher, data, options)
    if cached is None:
        if on_phase is not None:
            on_phase(Phase.PRUNING_PLAN)
        cached = _find(teacher, data, options)
    plan = cached.plan
    builder, arguments = _builder(config, teacher, plan, data)
    unordered: Literal["each", "whole"] = "whole" if options.depth == "whole" else "each"
    cuts = CutSpace.from_plan(
        plan,
        widths=options.widths,
        multiple=_multiple(options, config, plan),
        depth=cached.order if cached.order is not None else unordered,
        replacements=options.kinds,
        start=options.start,
    )
    space = cuts.search_space(builder, arguments=arguments)
    return Cutting(options, teacher, cached, cuts, space, data, config.seed)


def cache_plan(cutting: Cutting, file: Path) -> None:
    """Write the teacher's plan to a file for ``prune_teacher``, unless the file contains it already.

    Raises:
        OSError: it cannot be written.
    """
    origin = plan_cache_key(cutting.teacher, cutting.data, cutting.config)
    if origin is not None and read_cached_plan(file, origin) != cutting.cached:
        write_cached_plan(file, cutting.cached, origin)


def budget_advice(survey: Survey, budget: Budget, cutting: Cutting | None) -> str | None:
    """Return advice where almost no candidate is within the budget; None where enough are."""
    if survey.share >= _SCARCE:
        return None
    name = min(survey.shares, key=lambda name: survey.shares[name])
    low, largest = budget.limits[name].low, survey.largest.costs[name]
    below = low is not None and survey.median.costs[name] < low
    if cutting is None:
        remedy = f"{'dearer' if below else 'cheaper'} values of the space's parameters"
    elif below:
        remedy = "larger shares in 'widths', or depth: whole"
    else:
        multiple = cutting.config.multiple or multiple_for(cutting.plan)
        finer = f", a 'multiple' below {multiple}" if multiple > 1 else ""
        remedy = f"smaller shares in 'widths'{finer}, 'kinds' of cheaper blocks"
    return (
        f"Only {formatting.percent(survey.share, 1)} of sampled candidates are within the budget, mostly because of "
        f"'{name}' ({budget.limits[name].text(name)}; the largest has {formatting.cost(name, largest)}), so the search "
        f"will take long to find them; try {remedy}, or another budget."
    )


def describe_cutting(cutting: Cutting | None) -> list[str]:
    """Return sentences on the groups and blocks that are cut and on what stays unpruned; empty without a cut."""
    if cutting is None:
        return []
    plan = cutting.plan
    kinds = [group.kind for group in plan.groups]
    groups = ", ".join(f"{kinds.count(kind)} of {kind}" for kind in ("channels", "heads", "neurons") if kind in kinds)
    count = formatting.count(len(plan.groups), "group")
    droppable = sum(block.droppable for block in plan.blocks)
    cut = f"Students are cut from '{cutting.teacher.name}': {count} ({groups or 'none'})"
    if plan.blocks:
        blocks = formatting.count(len(plan.blocks), "block")
        sentences = [f"{cut}, {len(plan.shared)} shared between its {blocks}, of which {droppable} can be removed."]
    else:
        sentences = [
            f"{cut}. No backbone of blocks was found, so layers are narrowed and none removed; or {HOW_TO_NAME}."
        ]
    if plan.rewrites:
        names = ", ".join(one.module for one in plan.rewrites)
        sentences.append(f"In students, equivalent convolutions replace zero-padded shortcuts ({names}).")
    if plan.unpruned:
        shown = "; ".join(f"{entry.module or 'the network'} ({entry.reason})" for entry in plan.unpruned[:_SHOWN])
        more = f"; and {len(plan.unpruned) - _SHOWN} more" if len(plan.unpruned) > _SHOWN else ""
        sentences.append(f"Unpruned: {shown}{more}.")
    return sentences


def _read_cache(file: Path | None, teacher: Teacher, data: Dataset, options: FromTeacherConfig) -> CachedPlan | None:
    if file is None or not file.exists():
        return None
    origin = plan_cache_key(teacher, data, options)
    return None if origin is None else read_cached_plan(file, origin)


def _find(teacher: Teacher, data: Dataset, options: FromTeacherConfig) -> CachedPlan:
    samples = data.batch("train", random_indices(len(data.train), _COMPARED))[0]
    plan = find_plan(teacher.module, data.input_shape, blocks=options.blocks, samples=samples)
    if options.depth == "redundancy" or options.depth == "position":
        module = rewritten(teacher.module, plan.rewrites)
        return CachedPlan(plan, depth_order(module, plan, data, by=options.depth, samples=options.samples))
    return CachedPlan(plan, None)


def _builder(
    config: SearchFile, teacher: Teacher, plan: Plan, data: Dataset
) -> tuple[str | CutBuilder, dict[str, Any] | None]:
    """Return the builder of students: by the name of the teacher's builder if any program can import that."""
    try:
        known = teacher_builder(config.teacher, data)
    except ConfigError:  # it is in a module next to the search file
        known = None
    if known is None:
        return CutBuilder(teacher.module, plan), None
    name, arguments = known
    return _BUILD, {"teacher": name, "arguments": _plain(arguments), "plan": plan.to_dict()}


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def _multiple(options: FromTeacherConfig, config: SearchFile, plan: Plan) -> int:
    """Return the multiple of widths: finer for an allocation, unless a runtime's kernels set the pace."""
    if options.multiple is not None:
        return options.multiple
    timed = any(cost_info(name).measured for name in config.budget)
    usual = multiple_for(plan)
    return min(usual, FINE_MULTIPLE) if config.search.strategy == "allocate" and not timed else usual


def _options(space: Any, config: SearchFile) -> FromTeacherConfig:
    options = _parsed(space)
    # An allocation judges so many candidates that it can tell finer widths apart.
    if config.search.strategy == "allocate" and "widths" not in options.model_fields_set:
        return options.model_copy(update={"widths": FINE_WIDTHS})
    return options


def _parsed(space: Any) -> FromTeacherConfig:
    if space == FROM_TEACHER:
        return FromTeacherConfig()
    others = sorted(set(space) - {FROM_TEACHER})
    if others:
        raise ConfigError(
            f"space: '{others[0]}' cannot be combined with '{FROM_TEACHER}', whose builder is the teacher's own."
        )
    options = space[FROM_TEACHER]
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"space: '{FROM_TEACHER}' maps keys to values, as in {{widths: [0.25, 0.5, 1]}}.")
    return parse(FromTeacherConfig, options or {}, source=f"space: {FROM_TEACHER}")
