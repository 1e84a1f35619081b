"""The problem of a search, resolved once from its file: data, teacher, space, builder, costs and objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from nas_distill.blockwise.library import CONTENT, Library, LocalWeights
from nas_distill.config import (
    ADAMW_LR,
    DataConfig,
    FromTeacherConfig,
    SearchFile,
    TeacherSource,
    TrainingConfig,
    with_adamw,
    with_default_losses,
    with_sampler_of_cuts,
)
from nas_distill.costs.budget import Budget, Limit
from nas_distill.costs.latency import LATENCY, LatencyModel
from nas_distill.costs.model import Cost, CostModel, CostSubject
from nas_distill.costs.registry import cost_info, cost_names, counted_names, declare_cost
from nas_distill.costs.runtimes import Runtime, find_runtime
from nas_distill.costs.tracing import attends
from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.data.loaders import as_dataset
from nas_distill.distill.curriculum import curriculum_error
from nas_distill.distill.terms import LossTerms
from nas_distill.engine.candidates import LEAST_SECONDS, Candidates, Pricing
from nas_distill.engine.child import CallError, Child
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.objectives import Objectives
from nas_distill.pruning.backbone import HOW_TO_NAME
from nas_distill.pruning.space import CutSpace
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import identity_of
from nas_distill.spaces import Architecture, InitialWeights, NetworkBuilder, SearchSpace, load_space
from nas_distill.study.cutting import (
    Cutting,
    has_upper_limit,
    is_from_teacher,
    prune_teacher,
    with_start_learning_rates,
    with_strategy,
)
from nas_distill.tasks import Task, find_task
from nas_distill.teacher import Teacher, TeacherSignal, freeze, load_teacher
from nas_distill.utils.errors import ConfigError, CostError, MissingArgumentError, first_line
from nas_distill.utils.references import is_reference

FROM_PYTHON = "<python>"


@dataclass(frozen=True)
class SearchProblem:
    """A search file with the objects that it names.

    Attributes:
        config: the search file, with defaults that depend on data and teacher.
        data: the samples.
        teacher: the teacher; percentages of budgets refer to its costs.
        space: the search space.
        paths: folders in which relative files and modules are resolved; the first is the search file's.
        others: further teachers.
        cutting: the pruned teacher and its space; None where students are not cut from the teacher.
        notes: sentences on defaults that were chosen.
        costs: the user's own costs, and built-in ones with options.
    """

    config: SearchFile
    data: Dataset
    teacher: Teacher
    space: SearchSpace
    paths: tuple[Path, ...]
    others: tuple[Teacher, ...] = ()
    cutting: Cutting | None = None
    notes: tuple[str, ...] = ()
    costs: tuple[Cost, ...] = ()

    @property
    def runtime(self) -> Runtime:
        """The deployment runtime, for latency and exports."""
        return find_runtime(self.config.latency.runtime, paths=self.paths)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return self.data.input_shape

    @cached_property
    def builder(self) -> NetworkBuilder:
        """Builder of networks with random weights."""
        return NetworkBuilder.of(self.space, self.data)

    @property
    def cuts(self) -> CutSpace | None:
        """The space as cuts of the teacher; None where students are not cut from it."""
        return None if self.cutting is None else self.cutting.cuts

    def build(self, architecture: Architecture, seed: int | None = None, *, stream: str = "init") -> nn.Module:
        """Build a network with random weights; see ``NetworkBuilder.build``."""
        return self.builder.build(architecture, seed, stream=stream)

    @property
    def task(self) -> Task:
        """The task: label check, quality, losses and evaluation."""
        return find_task(self.data.task)

    def terms(self, training: TrainingConfig) -> LossTerms:
        """Return the loss terms of a training, imported and checked."""
        return LossTerms.of(training.loss, task=self.data.task, paths=self.paths)

    @property
    def required_costs(self) -> set[str]:
        """Names of the costs in limits and objectives."""
        search = self.config.search
        return {
            *self.config.budget,
            *(cost.key for cost in search.costs),
            *([search.scalar.cost] if search.scalar else []),
        }

    @cached_property
    def teacher_costs(self) -> dict[str, float]:
        """The teacher's costs without measured ones; the user's own are computed in a worker process.

        A cost of the user's own that fails for the teacher is left out, unless an amount is a percentage of it.

        Raises:
            CostError: the teacher's costs are needed and cannot be counted.
        """
        found = dict(CostModel(counted_names(), self.input_shape).costs(self.teacher.module))
        if not self.costs:
            return found
        scalar = self.config.search.scalar
        amounts = [*self.config.budget.items(), *([(scalar.cost, scalar.target)] if scalar else [])]
        shares = {name for name, amount in amounts if "%" in str(amount)}
        with Child(_Teacher(self.teacher.module, self.input_shape)) as child:
            for cost in self.costs:
                name = cost.info.name
                try:
                    found[name] = float(child.call("cost", cost, seconds=LEAST_SECONDS))
                except CallError as error:
                    found.pop(name, None)  # a built-in cost's with other options
                    if name in shares:
                        raise CostError(
                            f"'{name}' is limited to a percentage of the teacher's, which cannot be counted: "
                            f"{first_line(error)}."
                        ) from error
        return found

    @cached_property
    def objectives(self) -> Objectives:
        """Quality and the costs that are minimised; a target in percent is converted to base units.

        Raises:
            BudgetError: the target cannot be read.
        """
        return Objectives.from_config(self.config.search, self.teacher_costs)

    @cached_property
    def _limits(self) -> dict[str, Limit | None]:
        """Limits in base units; None for a percentage of the teacher's latency, which is measured only later."""

        def read(name: str, given: Any) -> Limit | None:
            later = cost_info(name).measured and "%" in str(given)
            return None if later else Budget.parse({name: given}, self.teacher_costs).limits[name]

        return {name: read(name, given) for name, given in self.config.budget.items()}

    def check_costs(self) -> None:
        """Check costs and amounts before anything is timed or trained.

        Raises:
            BudgetError: a cost or an amount is invalid.
            CostError: the deployment runtime is not installed.
        """
        self.runtime.require()
        for name in sorted(self.required_costs - {cost.info.name for cost in self.costs}):
            cost_info(name)
        _ = self._limits, self.objectives

    def pricing(
        self,
        latency: LatencyModel | None = None,
        teacher_latency_ms: float | None = None,
        candidates: Candidates | None = None,
    ) -> Pricing:
        """Return the pricing of architectures: the cost model, the teacher's costs, and the budget in base units.

        Args:
            latency: the fitted predictor; None excludes latency.
            teacher_latency_ms: the teacher's measured latency.
            candidates: builder of networks; a new one unless given.

        Raises:
            BudgetError: the budget cannot be read.
            CostError: the teacher's costs are needed and cannot be counted.
        """
        measured = {} if teacher_latency_ms is None else {LATENCY: teacher_latency_ms}
        later = {name: self.config.budget[name] for name, limit in self._limits.items() if limit is None}
        known = Budget.parse(later, measured).limits
        budget = Budget({name: limit or known[name] for name, limit in self._limits.items()})
        # The user's own costs, and built-in ones with options, replace the built-in ones of the same names.
        asked: list[str | Cost] = [*counted_names(), *self.costs, *((LATENCY,) if latency is not None else ())]
        model = CostModel(asked, self.input_shape, latency)
        return Pricing.by_model(model, candidates or self.candidates(), budget, {**self.teacher_costs, **measured})

    @property
    def base(self) -> Path:
        """The first folder in which relative files are resolved."""
        return self.paths[0] if self.paths else Path.cwd()

    def blocks_folder(self, folder: RunFolder) -> Path:
        """Return the folder of a run's library of distilled blocks."""
        named = self.config.blockwise.library
        return folder.blocks if named is None else self.base / Path(named).expanduser()

    def candidates(self, places: Sequence[Path] = ()) -> Candidates:
        """Return the builder of candidates in a separate process; ``places``: folders that may be written to."""
        minutes = self.config.search.trial_limit_minutes
        seconds = None if minutes is None else 60 * minutes
        return Candidates(self.builder, seed=self.config.seed, seconds=seconds, places=places)

    def student_builder(self, folder: RunFolder | None = None) -> NetworkBuilder:
        """Return the builder of students with their initial weights.

        ``folder``: of their run, whose distilled blocks they may start from.
        """
        if self.cutting is None or not self.cutting.inherits:
            return self.builder
        weights: InitialWeights = self.cutting.inheritance
        if folder is not None and self.config.search.assembles:
            blocks = self.blocks_folder(folder)
            if (blocks / CONTENT).exists():
                # Absolute, since workers may be started elsewhere.
                weights = LocalWeights(self.cutting.inheritance, Library.load(blocks.absolute()))
        return replace(self.builder, weights=weights)

    def evaluator(self, signal: TeacherSignal, folder: RunFolder | None = None) -> StudentEvaluator:
        """Return the evaluator of students taught by ``signal``; ``folder`` as for ``student_builder``."""
        return StudentEvaluator(self.data, self.student_builder(folder), signal, self.config.device, self.paths)

    @property
    def identity(self) -> dict[str, str]:
        """Digests of everything that scores and students of a run depend on, by section."""
        config = self.config
        others = [[teacher.fingerprint for teacher in self.others], config.teacher.combine] if self.others else []
        return identity_of(
            data=[self.data.fingerprint, self.data.views.recipe()],
            teacher=[self.teacher.fingerprint, config.teacher.signal, *others],
            space=self.space.fingerprint,
            budget=config.budget,
            objectives=[config.search.model_dump(mode="json")["costs"], config.search.scalar],
            score=config.score,
            final=config.final.training,
            latency=config.latency,
            seed=config.seed,
            **({} if self.cutting is None else {"inheritance": self.cutting.config}),
        )


@dataclass(frozen=True)
class _Teacher:
    """The teacher in a worker process that computes the user's own costs of it."""

    module: nn.Module
    input_shape: tuple[int, ...]

    def cost(self, cost: Cost) -> float:
        """Return a cost of the teacher."""
        return cost.compute(CostSubject(self.module, self.input_shape))


def resolve(
    config: SearchFile,
    paths: Sequence[Path] = (),
    *,
    data: Any = None,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    space: Any = None,
    builder: Callable[..., nn.Module] | str | None = None,
    plan: Path | None = None,
    on_phase: Callable[[str], None] | None = None,
) -> SearchProblem:
    """Load the objects that a search file names, and return the problem.

    Args:
        config: the search file.
        paths: folders in which relative files and modules are resolved.
        data: replaces the file's section, as do ``teacher``, ``space`` and ``builder``.
        teacher: a network, or several.
        space: a space, or its content.
        builder: of the networks of ``space``.
        plan: the file of the run's stored pruning plan.
        on_phase: called with the phase when the pruning plan is searched for, which takes minutes for a large network.

    Raises:
        ConfigError: a section is invalid, or came from Python when the run was made and is not given now.
        NasDistillError: data, teacher or space are invalid.
    """
    if data is None:
        data = load_data(config.data, paths, config.seed)
    elif not isinstance(data, Dataset):
        views = _views(config.data, paths)
        data = as_dataset(data, val=config.data.val, views=views, task=config.data.task, seed=config.seed)
    config = with_default_losses(config, data.task)
    for section in ("score", "final"):
        LossTerms.of(getattr(config, section).training.loss, task=data.task, where=f"{section}.loss", paths=paths)
    config, costs = with_costs(config, paths)
    find_runtime(config.latency.runtime, paths=paths)
    if teacher is None:
        frozen = [_load_teacher(source, data, paths) for source in (config.teacher, *config.teacher.others)]
    else:
        given: list[Any] = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
        frozen = [freeze(module, data) for module in given]
    config, notes = _with_suited_optimizer(config, frozen[0], data)
    content = config.space if space is None else space
    config, chosen = with_strategy(config, content)
    cutting = None
    if is_from_teacher(content):
        if builder is not None:
            raise ConfigError(
                "'builder' cannot be combined with a space cut from the teacher, whose builder is the teacher's own."
            )
        cutting = prune_teacher(content, config, frozen[0], data, plan, on_phase)
        config = with_sampler_of_cuts(config)
    _check_task(config, data.task, None if cutting is None else cutting.config)
    _check_strategy(config, cutting)
    if config.search.assembles and cutting is not None and not cutting.plan.blocks:
        raise ConfigError(
            f"search.strategy: '{config.search.strategy}' assembles blocks, and no backbone of blocks is found in "
            f"the teacher; {HOW_TO_NAME}, or take strategy: sample."
        )
    if config.score.rungs == (0.0,) and (cutting is None or cutting.config.start != "inherited"):
        raise ConfigError(
            "score.rungs: [0] scores candidates by their inherited weights without training: take a space that is cut "
            "from the teacher (space: from_teacher) with start: inherited, or rungs that end with 1."
        )
    config, rates = with_start_learning_rates(config, cutting)
    found = _load_space(content, paths, builder) if cutting is None else cutting.space
    others = tuple(frozen[1:])
    return SearchProblem(
        config, data, frozen[0], found, tuple(paths), others, cutting, (*notes, *chosen, *rates), costs
    )


def _check_strategy(config: SearchFile, cutting: Cutting | None) -> None:
    """Refuse strategies that need inherited weights in other spaces, and allocation without a limit to allocate.

    Raises:
        ConfigError: names the strategy and an alternative.
    """
    strategy = config.search.strategy
    if strategy == "sample":
        return
    if cutting is None or not cutting.inherits:
        what = "judges students before training" if strategy == "allocate" else "assembles students of teacher blocks"
        raise ConfigError(
            f"search.strategy: '{strategy}' {what}: take a space that is cut from the teacher (space: from_teacher) "
            "and inherits its weights, or strategy: sample."
        )
    if strategy == "allocate" and not has_upper_limit(config):
        raise ConfigError(
            "search.strategy: 'allocate' spends a budget, and there is no upper limit: give one (budget: {flops: 20%}),"
            " or take strategy: sample."
        )


def _check_task(config: SearchFile, task: str, cutting: FromTeacherConfig | None) -> None:
    """Refuse settings that need classes for data of another task; ``cutting``: settings of the cut, if any.

    Raises:
        ConfigError: names the setting and an alternative.
    """
    kind = find_task(task)
    if not kind.exclusive and cutting is not None and cutting.depth == "redundancy":
        raise ConfigError(
            f"space.from_teacher.depth: 'redundancy' compares class probabilities, and the data are of {task}; take "
            "'position' or 'each'."
        )
    for name, training in (("score", config.score.training), ("final", config.final.training)):
        wrong = curriculum_error(training.curriculum, task)
        if wrong is not None:
            raise ConfigError(f"{name}.curriculum.by: {wrong}.")


def _with_suited_optimizer(config: SearchFile, teacher: Teacher, data: Dataset) -> tuple[SearchFile, list[str]]:
    """Return the search file with the default optimiser for the teacher's kind of network, and a sentence about it."""
    if not attends(teacher.module, data.input_shape):
        return config, []
    config, sections = with_adamw(config)
    if not sections:
        return config, []
    return config, [
        f"Optimiser of {' and '.join(sections)}: adamw at a rate of {ADAMW_LR:g}, since the teacher has attention "
        "or reads tokens; optimizer: {name: ..., lr: ...} sets another."
    ]


def with_costs(config: SearchFile, paths: Sequence[Path] = ()) -> tuple[SearchFile, tuple[Cost, ...]]:
    """Return the search file with the units of the user's own costs, and these costs; none of them is called.

    Raises:
        BudgetError: no such cost exists.
        ConfigError: a cost cannot be imported, has the name of a built-in cost, or an invalid option.
    """
    found, entries = [], []
    for place, entry in enumerate(config.search.costs):
        if not entry.plain:
            where = f"search.costs.{place}"
            if is_reference(entry.name) and entry.key in cost_names():
                raise ConfigError(
                    f"{where}: '{entry.name}' has the name of the built-in cost '{entry.key}'; rename it."
                )
            cost = Cost.find(entry.name, entry.options, where=where, paths=paths)
            unit = cost.info.unit if entry.unit is None else entry.unit
            found.append(replace(cost, info=replace(cost.info, unit=unit)))
            entry = entry.model_copy(update={"unit": unit})
        entries.append(entry)
    config = config.model_copy(update={"search": config.search.model_copy(update={"costs": tuple(entries)})})
    declare_costs(config)
    return config, tuple(found)


def declare_costs(config: SearchFile) -> None:
    """Register names and units of a search file's own costs for budgets and reports, without loading their code."""
    for entry in config.search.costs:
        if is_reference(entry.name):
            declare_cost(entry.key, entry.unit or "")


def search_paths(file: Path | None) -> tuple[Path, ...]:
    """Return the folders in which relative files and modules are resolved: the search file's, then the current one."""
    here = Path.cwd()
    return (here,) if file is None else (file.resolve().parent, here)


def load_data(config: DataConfig, paths: Sequence[Path], seed: int) -> Dataset:
    """Load the data set of a data section."""
    _require_named("data", config.name)
    data = load_dataset(
        config.name,
        root=config.root,
        val=config.val,
        views=_views(config, paths),
        arguments=config.arguments,
        paths=paths,
        task=config.task,
        seed=seed,
    )
    return data if config.mean is None or config.std is None else data.standardised_by(config.mean, config.std)


def _load_teacher(config: TeacherSource, data: Dataset, paths: Sequence[Path]) -> Teacher:
    _require_named("teacher", config.name or "")
    return load_teacher(config, data, paths)


def _load_space(content: Any, paths: Sequence[Path], builder: Callable[..., nn.Module] | str | None) -> SearchSpace:
    if isinstance(content, SearchSpace):
        return content
    if builder is None and isinstance(content, Mapping):
        named = str(content.get("builder", ""))
        if named.startswith("__main__:") or "<locals>" in named:
            raise MissingArgumentError(f"This run's builder, {named}, was defined in Python: pass it as 'builder'.")
    if builder is not None and isinstance(content, Mapping):
        return SearchSpace.from_dict(content, builder=builder, paths=paths)
    if builder is not None:
        raise ConfigError(
            "'builder' needs a space given as a mapping of parameters; a named space has its own builder."
        )
    return load_space(content, paths)


def _require_named(section: str, name: str) -> None:
    if name.startswith(FROM_PYTHON):
        raise MissingArgumentError(
            f"This run's {section} was given from Python, so it cannot be loaded again; use "
            f"nas_distill.open_run(folder, {section}=...)."
        )


def _views(config: DataConfig, paths: Sequence[Path]) -> Views | None:
    views = config.views
    if views is None:
        return None
    return Views(views.count, views.pad, views.flip, views.seed, views.function, tuple(map(str, paths)))
