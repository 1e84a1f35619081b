"""The problem of a search, resolved once: data, teacher, space, builder, and what follows from the search file."""

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
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import identity_of
from nas_distill.spaces import Architecture, InitialWeights, NetworkBuilder, SearchSpace, load_space
from nas_distill.study.cutting import Cutting, cut_from, is_from_teacher, with_rates_of_start
from nas_distill.tasks import Task, find_task
from nas_distill.teacher import Teacher, TeacherSignal, freeze, load_teacher
from nas_distill.utils.errors import ConfigError, CostError, MissingArgumentError, first_line
from nas_distill.utils.references import is_reference

FROM_PYTHON = "<python>"


@dataclass(frozen=True)
class SearchProblem:
    """A search file and the objects that it names; ``paths`` are where relative files and modules are looked for.

    The first of them is the search file's own folder. ``others`` teach beside ``teacher``. ``cutting``: how students
    are cut from the teacher, where they are. ``notes`` are sentences on defaults that follow from all these.
    ``costs`` are the user's own, and built-in ones with options.
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
        """The deployment runtime: what latency is of, and what students are exported for."""
        return find_runtime(self.config.latency.runtime, paths=self.paths)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.data.input_shape

    @cached_property
    def builder(self) -> NetworkBuilder:
        """Builds the network of any architecture, with random weights."""
        return NetworkBuilder.of(self.space, self.data)

    def build(self, architecture: Architecture, seed: int | None = None, *, stream: str = "init") -> nn.Module:
        """Build a network with random weights; see ``NetworkBuilder.build``."""
        return self.builder.build(architecture, seed, stream=stream)

    @property
    def task(self) -> Task:
        """What networks tell of a sample: its label check, quality, losses and evaluation."""
        return find_task(self.data.task)

    def terms(self, training: TrainingConfig) -> LossTerms:
        """Return the loss terms of one of its trainings, found and checked."""
        return LossTerms.of(training.loss, task=self.data.task, paths=self.paths)

    @property
    def required_costs(self) -> set[str]:
        """The costs that a limit or an objective asks for."""
        search = self.config.search
        return {
            *self.config.budget,
            *(cost.key for cost in search.costs),
            *([search.scalar.cost] if search.scalar else []),
        }

    @cached_property
    def teacher_costs(self) -> dict[str, float]:
        """The teacher's costs, but for those that are measured; the user's own are asked in a worker process.

        One of the user's own that fails for the teacher is left out, unless an amount is a share of it.

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
                            f"'{name}' is limited to a share of the teacher's, which cannot be counted: "
                            f"{first_line(error)}."
                        ) from error
        return found

    @cached_property
    def objectives(self) -> Objectives:
        """Quality and the costs that are minimised; a target in percent is in plain numbers.

        Raises:
            BudgetError: the target cannot be read.
        """
        return Objectives.from_config(self.config.search, self.teacher_costs)

    @cached_property
    def _limits(self) -> dict[str, Limit | None]:
        """The limits in plain numbers; None for a share of the teacher's latency, which is measured only later."""

        def read(name: str, given: Any) -> Limit | None:
            later = cost_info(name).measured and "%" in str(given)
            return None if later else Budget.parse({name: given}, self.teacher_costs).limits[name]

        return {name: read(name, given) for name, given in self.config.budget.items()}

    def check_costs(self) -> None:
        """Refuse a cost or an amount that cannot be read, before anything is timed or trained.

        Raises:
            BudgetError: names it.
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
        """Return what prices architectures: costs, the teacher's among them, and the budget in plain numbers.

        Args:
            latency: the fitted predictor; None leaves latency out.
            teacher_latency_ms: measured, beside the predictor.
            candidates: builds networks; one of its own unless given.

        Raises:
            BudgetError: the budget cannot be read.
            CostError: the teacher's costs are needed and cannot be counted.
        """
        measured = {} if teacher_latency_ms is None else {LATENCY: teacher_latency_ms}
        later = {name: self.config.budget[name] for name, limit in self._limits.items() if limit is None}
        known = Budget.parse(later, measured).limits
        budget = Budget({name: limit or known[name] for name, limit in self._limits.items()})
        # The user's own, and built-in ones with options, stand in for the built-in ones of their names.
        asked: list[str | Cost] = [*counted_names(), *self.costs, *((LATENCY,) if latency is not None else ())]
        model = CostModel(asked, self.input_shape, latency)
        return Pricing.by_model(model, candidates or self.candidates(), budget, {**self.teacher_costs, **measured})

    @property
    def base(self) -> Path:
        """The folder that relative files are looked for in first."""
        return self.paths[0] if self.paths else Path.cwd()

    def blocks_folder(self, folder: RunFolder) -> Path:
        """Return where the blocks of a run are kept that were distilled one by one."""
        named = self.config.blockwise.library
        return folder.blocks if named is None else self.base / Path(named).expanduser()

    def candidates(self, places: Sequence[Path] = ()) -> Candidates:
        """Return what builds candidates in a process of its own; ``places``: folders that are written to."""
        minutes = self.config.search.trial_limit_minutes
        seconds = None if minutes is None else 60 * minutes
        return Candidates(self.builder, seed=self.config.seed, seconds=seconds, places=places)

    def student_builder(self, folder: RunFolder | None = None) -> NetworkBuilder:
        """Return what builds students with the weights that they begin with.

        ``folder``: of their run, where blocks may have been distilled that they take.
        """
        if self.cutting is None or not self.cutting.inherits:
            return self.builder
        weights: InitialWeights = self.cutting.inheritance
        if folder is not None and self.config.search.strategy != "sample":
            blocks = self.blocks_folder(folder)
            if (blocks / CONTENT).exists():
                weights = LocalWeights(self.cutting.inheritance, Library.load(blocks))
        return replace(self.builder, weights=weights)

    def evaluator(self, signal: TeacherSignal, folder: RunFolder | None = None) -> StudentEvaluator:
        """Return what trains students, taught by ``signal``; ``folder`` as for ``student_builder``."""
        return StudentEvaluator(self.data, self.student_builder(folder), signal, self.config.device, self.paths)

    @property
    def identity(self) -> dict[str, str]:
        """A digest of each thing that the scores and students of a run depend on."""
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
    """Content of the process that asks the user's own costs about the teacher."""

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
    """Load what a search file names; ``data``, ``teacher``, ``space`` and ``builder`` stand in for their sections.

    ``plan`` is the file where their run may have kept what can be cut from the teacher. ``on_phase`` is told when that
    is looked for, which takes minutes for a large network.

    Raises:
        ConfigError: a section came from Python when the run was made, and is not given now.
        NasDistillError: what is wrong with data, teacher or space.
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
    cutting = None
    if is_from_teacher(content):
        if builder is not None:
            raise ConfigError(
                "'builder' does not go with a space cut from the teacher, whose builder is the teacher's own."
            )
        cutting = cut_from(content, config, frozen[0], data, plan, on_phase)
    _check_task(config, data.task, None if cutting is None else cutting.config)
    if config.search.strategy != "sample" and (cutting is None or not cutting.inherits):
        raise ConfigError(
            f"search.strategy: '{config.search.strategy}' assembles students of the teacher's blocks: take a space "
            "that is cut from the teacher (space: from_teacher) and inherits its weights, or strategy: sample."
        )
    if config.search.strategy != "sample" and cutting is not None and not cutting.plan.blocks:
        raise ConfigError(
            f"search.strategy: '{config.search.strategy}' assembles blocks, and no trunk of blocks is found in the "
            f"teacher; {HOW_TO_NAME}, or take strategy: sample."
        )
    if config.score.rungs == (0.0,) and (cutting is None or cutting.config.start != "inherited"):
        raise ConfigError(
            "score.rungs: [0] judges candidates by the weights that they inherit, untrained: take a space that is cut "
            "from the teacher (space: from_teacher) with start: inherited, or rungs that end with 1."
        )
    config, rates = with_rates_of_start(config, cutting)
    found = _load_space(content, paths, builder) if cutting is None else cutting.space
    others = tuple(frozen[1:])
    return SearchProblem(config, data, frozen[0], found, tuple(paths), others, cutting, (*notes, *rates), costs)


def _check_task(config: SearchFile, task: str, cutting: FromTeacherConfig | None) -> None:
    """Refuse settings that need classes, for data of another task; ``cutting``: how students are cut, if they are.

    Raises:
        ConfigError: names the setting, and what to take instead.
    """
    kind = find_task(task)
    if not kind.exclusive and cutting is not None and cutting.depth == "redundancy":
        raise ConfigError(
            f"space.from_teacher.depth: 'redundancy' compares classes' probabilities, and the data are of {task}; take "
            "'position' or 'each'."
        )
    for name, training in (("score", config.score.training), ("final", config.final.training)):
        wrong = curriculum_error(training.curriculum, task)
        if wrong is not None:
            raise ConfigError(f"{name}.curriculum.by: {wrong}.")


def _with_suited_optimizer(config: SearchFile, teacher: Teacher, data: Dataset) -> tuple[SearchFile, list[str]]:
    """Return the search file with the optimiser that suits networks of the teacher's kind, and a sentence about it."""
    if not attends(teacher.module, data.input_shape):
        return config, []
    config, sections = with_adamw(config)
    if not sections:
        return config, []
    return config, [
        f"Optimiser of {' and '.join(sections)}: adamw at a rate of {ADAMW_LR:g}, since the teacher attends or reads "
        "tokens; optimizer: {name: ..., lr: ...} sets another."
    ]


def with_costs(config: SearchFile, paths: Sequence[Path] = ()) -> tuple[SearchFile, tuple[Cost, ...]]:
    """Return a search file whose own costs have their units, and these costs; nothing of their code is called.

    Raises:
        BudgetError: there is no such cost.
        ConfigError: one cannot be imported, has the name of a built-in cost, or a wrong option.
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
    """Make the user's own costs of a search file known to budgets and reports, without loading their code."""
    for entry in config.search.costs:
        if is_reference(entry.name):
            declare_cost(entry.key, entry.unit or "")


def search_paths(file: Path | None) -> tuple[Path, ...]:
    """Return the folders for relative files and modules: the search file's own, then the current one."""
    here = Path.cwd()
    return (here,) if file is None else (file.resolve().parent, here)


def load_data(config: DataConfig, paths: Sequence[Path], seed: int) -> Dataset:
    """Load what a data section names."""
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
        raise ConfigError("'builder' goes with a space given as a mapping of parameters; a named space has its own.")
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
