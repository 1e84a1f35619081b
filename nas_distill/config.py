"""Frozen models of search files and teach files, with every default of nas_distill.

Defaults are stated only here. Errors name the field, and suggest a similar key for a misspelt one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from nas_distill.tasks import find_task
from nas_distill.utils.errors import ConfigError
from nas_distill.utils.references import is_reference, last_name
from nas_distill.utils.strict_yaml import load_strict
from nas_distill.utils.validation import FLAT, StrictModel, explain

Model = TypeVar("Model", bound=BaseModel)
Fraction = float


class Section(StrictModel):
    """A part of a search file."""


_Pad = Annotated[int, Field(ge=0, le=4096)]


class ViewsConfig(Section):
    """Seeded augmentation: ``count`` fixed views of a training sample, by pad-crop (``pad`` pixels) and mirroring.

    ``pad`` is one number for all axes but the channels, or a list of numbers for the last axes. ``function``
    (``package.module:function``) changes a sample further; see ``data.Views``.
    """

    count: int = Field(4, ge=1, le=4096)
    pad: _Pad | tuple[_Pad, ...] = Field(0, description="a whole number from 0 to 4096, or a list of such by axis")
    flip: bool = False
    seed: int = 0
    function: str | None = None


class DataConfig(Section):
    """Source of the data.

    ``name`` is a built-in set (``fashion-mnist``, ``digits``), a ``.npz`` file, or ``package.module:function`` that
    returns a Dataset, arrays or torch datasets. ``root`` is a folder of IDX files for the whole Fashion-MNIST. ``val``
    is the share split off for validation if the source has no validation split. ``mean`` and ``std``, one number per
    channel or one for all, standardise the samples; by default they are the source's.
    """

    name: str
    root: str | None = None
    val: float = Field(0.2, gt=0, lt=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    views: ViewsConfig | None = None
    mean: float | tuple[float, ...] | None = Field(None, description="a number, or a list of one number per channel")
    std: float | tuple[float, ...] | None = Field(
        None, description="a number above 0, or a list of one such number per channel"
    )
    task: str | None = None

    @model_validator(mode="after")
    def _mean_with_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both 'mean' and 'std', or neither")
        return self


class TeacherSource(Section):
    """Source of a teacher.

    ``name`` is a teacher shipped with nas_distill, or a folder of ``nas-distill teach``; otherwise ``builder``
    (``package.module:function``, called with ``arguments``) makes the module, and ``weights`` (safetensors, or a
    pickled state dict) are loaded into it.
    """

    name: str | None = None
    builder: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.builder is None):
            raise ValueError("give either 'name' (a shipped teacher) or 'builder' with 'weights'")
        if self.name is not None and (self.weights is not None or self.arguments):
            raise ValueError("a shipped teacher takes neither 'weights' nor 'arguments'")
        return self


class CombineConfig(Section):
    """Combination of several teachers: probabilities at ``temperature``, mixed ``by`` mean, entropy or confidence."""

    by: Literal["mean", "entropy", "confidence"] = "mean"
    temperature: float = Field(4.0, gt=0)


class TeacherConfig(TeacherSource):
    """The frozen teacher.

    ``signal: store`` runs the teacher once and keeps its answers under ``store`` (a folder); ``live`` runs it beside
    the student. The store keeps all logits, or for many classes the ``top_k`` largest: the others then share the
    ``missing`` probability (uniform), or have none of it (zero). ``others`` are further teachers, combined by
    ``combine``; budgets in percent, features and comparisons refer to this one.
    """

    signal: Literal["store", "live"] = "store"
    store: str | None = None
    top_k: int | None = Field(None, ge=1)
    missing: Literal["uniform", "zero"] = "uniform"
    others: tuple[TeacherSource, ...] = ()
    combine: CombineConfig = CombineConfig()

    @field_validator("others", mode="before")
    @classmethod
    def _expand_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [{"name": entry} if isinstance(entry, str) else entry for entry in value]
        return value


INHERITED_LR, RECONSTRUCTED_LR = 0.01, 0.05
"""Learning rates of ``sgd`` for students that begin with the teacher's weights, unchanged or reconstructed."""
ADAMW_LR = 0.005
"""The default learning rate of ``adamw``."""


class OptimizerConfig(Section):
    """Optimiser: ``sgd`` (Nesterov momentum) or ``adamw``; ``clip`` bounds the gradient's norm, null does not.

    A search that names no optimiser uses ``adamw`` if the teacher has attention or an embedding.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    clip: float | None = Field(5.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _rate_of_adamw(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("name") == "adamw" and "lr" not in value:
            return {**value, "lr": ADAMW_LR}
        return value


class TermConfig(Section):
    """One term of a training's loss: a loss by its ``name``, or the user's own as ``package.module:name``.

    ``weight`` null takes the loss's default, from its paper. The term is active from ``start`` to ``stop`` (shares of
    the training), and its weight rises over ``warmup`` after its start. ``layers`` are the pairs [student's, teacher's]
    that it reads (only the student's for a loss that reads no teacher's), or auto. Further keys are the loss's options.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str
    weight: float | None = Field(None, ge=0)
    start: Fraction = Field(0.0, ge=0, lt=1)
    stop: Fraction = Field(1.0, gt=0, le=1)
    warmup: Fraction = Field(0.0, ge=0, le=1)
    layers: Literal["auto"] | tuple[tuple[str, str], ...] | tuple[str, ...] = Field(
        "auto", description="auto, or a list of pairs [student's layer, teacher's layer], or only of the student's"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are the loss's own."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _starts_before_it_stops(self) -> Self:
        if self.start >= self.stop:
            raise ValueError("'start' must be below 'stop'")
        return self


def _distillation() -> tuple[TermConfig, ...]:
    """Return Hinton's knowledge distillation with a term on the labels."""
    return default_loss("classification")


def default_loss(task: str) -> tuple[TermConfig, ...]:
    """Return the default loss of a task: the teacher's answers with weight 0.9, the labels with weight 0.1."""
    kind = find_task(task)
    answers = TermConfig.model_validate({"name": kind.answers_loss, "weight": 0.9, **kind.answers_options})
    return TermConfig(name=kind.labels_loss, weight=0.1), answers


class CurriculumConfig(Section):
    """Curriculum of easy samples first: the easiest share of each batch counts, rising from ``start`` to 1.

    ``by`` is the measure of difficulty: the entropy of the teacher's answer, or the student's own loss. ``until`` is
    the share of the training after which all samples count.
    """

    by: Literal["teacher_entropy", "student_loss"] = "teacher_entropy"
    start: Fraction = Field(0.5, gt=0, le=1)
    until: Fraction = Field(0.5, gt=0, le=1)


class TrainingConfig(Section):
    """Training of a network; every schedule is a fraction of its ``epochs``.

    ``warmup``: share of the steps with a rising rate; after it, ``decay``: a cosine down to zero, or constant. ``ema``:
    the horizon of the averaged weights that are read out, as a share of all steps (0 reads the last weights).
    """

    epochs: float = Field(4.0, gt=0, le=1e6)
    batch_size: int = Field(128, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: tuple[TermConfig, ...] = Field(default_factory=_distillation, min_length=1)
    warmup: Fraction = Field(0.1, ge=0, lt=1)
    decay: Literal["cosine", "constant"] = "cosine"
    curriculum: CurriculumConfig | None = None
    ema: Fraction = Field(0.05, ge=0, lt=1)

    @field_validator("loss", mode="before")
    @classmethod
    def _expand_names(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            raise ValueError("must be a list of terms such as [{name: cross_entropy, weight: 0.1}, {name: kd}]")
        if isinstance(value, str):
            value = [value]
        return (
            [{"name": term} if isinstance(term, str) else term for term in value] if isinstance(value, list) else value
        )


class TrainedSection(Section):
    """A section with a ``training``, whose keys a file writes beside the section's own: ``{epochs: 2, rungs: [1]}``.

    Both ways: such keys are read into ``training``, with the section's own default length, and written back flat.
    """

    training: Annotated[TrainingConfig, FLAT] = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or isinstance(value.get("training"), TrainingConfig):
            return value
        own = {key: content for key, content in value.items() if key in cls.model_fields and key != "training"}
        # Unknown keys are included, so that they are reported together with other errors.
        found = TrainingConfig.model_validate({key: content for key, content in value.items() if key not in own})
        default: TrainingConfig = cls.model_fields["training"].default
        given = found.model_fields_set
        values = {name: getattr(found if name in given else default, name) for name in TrainingConfig.model_fields}
        # Constructed, so that filled-in defaults do not count as set by the user.
        return {**own, "training": TrainingConfig.model_construct(given, **values)}

    @model_serializer(mode="wrap")
    def _flattened(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {**content.pop("training", {}), **content}


class ScoreConfig(TrainedSection):
    """The short distillation that scores an architecture; ``rungs`` are the shares of it after which it may stop.

    A rung at 0 evaluates candidates before training, which is useful for inherited weights; ``[0]`` does not train
    candidates at all.
    """

    training: Annotated[TrainingConfig, FLAT] = TrainingConfig(epochs=3.0)
    rungs: tuple[Fraction, ...] = (1 / 3, 1.0)

    @field_validator("rungs")
    @classmethod
    def _rising_to_one(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if not rungs or any(a >= b for a, b in pairwise(rungs)) or rungs[0] < 0 or rungs[-1] not in (0.0, 1.0):
            raise ValueError("rungs must rise from 0 or above to exactly 1, or be [0] only")
        return rungs


class FinalConfig(TrainedSection):
    """The full distillation of up to ``count`` finalists; ``baseline`` also trains the best one only on hard labels.

    ``uniform`` also trains the best network within the budget that needs no search, so that the report states the gain
    of the search over it. It may become the student.

    ``slope`` is the expected gain in final quality, at equal short score, per doubling of the first cost objective.
    Finalists are chosen by short score and slope (0: only by short score). Calibration measures it.
    """

    training: Annotated[TrainingConfig, FLAT] = TrainingConfig(epochs=12.0)
    count: int = Field(3, ge=1)
    slope: float = Field(0.01, ge=0)
    baseline: bool = True
    uniform: bool = True


class PruningConfig(Section):
    """Dominance stopping at equal fidelity.

    ``margin`` (in units of quality, accuracy is a share of 1) is what a cheaper candidate must be ahead by; ``auto``
    takes ``z`` standard deviations of the quality over ``probe_seeds`` seeds of one candidate. At least
    ``min_dominators`` candidates must be ahead, and ``min_reports`` must have reported before.
    """

    rule: Literal["dominance", "none"] = "dominance"
    margin: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(0.04, description="a number from 0, or auto")
    z: float = Field(1.0, ge=0)
    probe_seeds: int = Field(3, ge=2, le=1000)
    min_dominators: int = Field(1, ge=1)
    min_reports: int = Field(1, ge=1)
    tolerance: float = Field(0.0, ge=0)


class ScalarConfig(Section):
    """MnasNet's soft reward (Tan et al. 2019) as the only objective: ``quality * (cost / target) ** exponent``."""

    cost: str
    target: float | str = Field(description="an amount such as 2M or 50%")
    exponent: float = Field(-0.07, le=0)


class FromTeacherConfig(Section):
    """A space of students cut from the teacher: ``space: from_teacher``, or ``space: {from_teacher: {...}}``.

    ``widths``: the shares of its units (channels, heads, neurons) that a group may keep, rounded up to ``multiple``
    (heads to whole ones; null follows the teacher's narrowest width). ``depth``: the blocks that may be dropped:
    ``each`` independently, or a searched number of them, by measured ``redundancy`` or evenly over the depth
    (``position``); ``whole`` keeps all. ``kinds``: cheaper replacements of blocks. ``blocks`` names the blocks of the
    backbone if they are not found.

    ``start``: students begin with the teacher's weights (``inherited``), with ``random`` ones, or as a parameter of
    the space says (``both``). ``importance``: the criterion of the units that are kept. ``reconstruct``: least-squares
    reconstruction of layers after pruning. ``samples``: number of training samples used for each of the two.
    """

    widths: tuple[Fraction, ...] = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    multiple: int | None = Field(None, ge=1)
    depth: Literal["each", "redundancy", "position", "whole"] = "each"
    kinds: tuple[str, ...] = ()
    blocks: tuple[str, ...] | None = None
    start: Literal["inherited", "random", "both"] = "inherited"
    importance: Literal["taylor", "activation", "magnitude", "random"] = "taylor"
    reconstruct: bool = True
    samples: int = Field(1024, ge=1)

    @field_validator("widths")
    @classmethod
    def _rising_shares(cls, widths: tuple[float, ...]) -> tuple[float, ...]:
        if not widths or any(a >= b for a, b in pairwise(widths)) or widths[0] <= 0 or widths[-1] > 1:
            raise ValueError("widths must rise from above 0 to at most 1")
        return widths


class BlockwiseConfig(Section):
    """Alternatives of each block, distilled one by one, and assembled.

    ``trunk``: shares of the teacher's widths between blocks that alternatives have; ``widths``: shares of the widths
    within a block, equal for all of its layers. Both are rounded up to allowed widths of the space. Alternatives are
    trained for ``epochs`` passes over the training split (0: scored with inherited weights) without ``heldout`` of its
    samples, on which they are scored.

    The ``solutions`` best assemblies by the sum of ``score`` are made; any two share at most ``overlap`` of the blocks.
    ``library``: the folder that trained alternatives are stored in and read from, such as ``blocks`` of another run; by
    default the run's own.
    """

    trunk: tuple[Fraction, ...] = (0.25, 0.5, 1.0)
    widths: tuple[Fraction, ...] = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    epochs: float = Field(1.0, ge=0, le=1e6)
    batch_size: int = Field(128, ge=2)
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=2e-3, weight_decay=0.0, clip=None)
    warmup: Fraction = Field(0.1, ge=0, lt=1)
    heldout: int = Field(1000, ge=1)
    solutions: int = Field(12, ge=1)
    overlap: Fraction = Field(0.8, ge=0, le=1)
    score: Literal["kl", "nsr", "relative_l1"] = "relative_l1"
    library: str | None = None

    @field_validator("trunk", "widths")
    @classmethod
    def _shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or len(set(shares)) != len(shares) or min(shares) <= 0 or max(shares) > 1:
            raise ValueError("must be different shares above 0 and up to 1")
        return tuple(sorted(shares))


class AllocationConfig(Section):
    """The search of ``strategy: allocate`` for the widths and blocks that spend the budget best, before any training.

    ``candidates`` cuts at the limits and below are judged by their divergence from the teacher on ``samples`` training
    samples, and the best of them again on four times as many. The best ``search.trials`` of different kind are
    distilled in short.
    """

    candidates: int = Field(320, ge=8, le=1_000_000)
    samples: int = Field(128, ge=1)


class SamplerConfig(Section):
    """The algorithm that proposes candidates: a sampler's ``name``, or the user's own as ``package.module:name``.

    Further keys are options of the sampler.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str = "known_cost"

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are the sampler's own."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        try:
            json.dumps(self.options)
        except (TypeError, ValueError) as error:
            raise ValueError("options must be numbers, text, lists or mappings, which a file can hold") from error
        return self


class CostConfig(Section):
    """A cost: a built-in one by its ``name``, or the user's own as ``package.module:name``.

    In budgets and reports the user's own has the name after the colon, and amounts in ``unit`` (null: the unit of its
    decorator). If ``objective`` is false, the cost is counted only for the budget. Further keys are the cost's options.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str
    unit: str | None = Field(None, pattern=r"^[^\W\d]*$")
    objective: bool = True

    @property
    def key(self) -> str:
        """The name in budgets, journals and reports."""
        return last_name(self.name) if is_reference(self.name) else self.name

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are the cost's own."""
        return dict(self.model_extra or {})

    @property
    def plain(self) -> bool:
        """True if it is a built-in cost with default options."""
        return not is_reference(self.name) and not self.options

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> Any:
        """Write a cost without other keys as its name."""
        found = {key: value for key, value in write(self).items() if value is not None}
        return self.name if found == {"name": self.name, "objective": True} else found


class SearchConfig(Section):
    """Extent, objectives and execution of a search.

    ``costs`` are the objectives beside quality (all minimised), and further costs of the user's own; unlisted costs
    with a budget are only limits.
    ``trials`` counts candidates that are trained; over-budget and repeated ones are recorded and cost nothing.
    ``strategy``: candidates come from the sampler (``sample``). In a space cut from the teacher they may also be those
    that an allocation search judges best before training (``allocate``, section ``allocation``), be assembled of
    locally distilled blocks (``blockwise``), or be assembled first and sampled then (``hybrid``). ``auto`` is
    ``allocate`` where students inherit the teacher's weights under an upper limit, with 12 trials unless ``trials``
    is set, and ``sample`` elsewhere.
    ``warm_start``: folders of earlier runs of the same space, whose finished trials inform this search.
    """

    trials: int = Field(40, ge=1, le=10_000_000)
    strategy: Literal["auto", "sample", "allocate", "blockwise", "hybrid"] = "auto"
    sampler: SamplerConfig = SamplerConfig()
    seeds: int = Field(6, ge=0, le=10_000)
    warm_start: tuple[str, ...] = Field((), description="a list of folders of earlier runs")
    costs: tuple[CostConfig, ...] = Field(
        (CostConfig(name="flops"),), description="a list of costs, each a name or {name: ...}"
    )
    scalar: ScalarConfig | None = None
    pruning: PruningConfig = PruningConfig()
    workers: int = Field(2, ge=1, le=10_000)
    threads: int = Field(1, ge=1, le=4096)
    gpus_per_worker: float = Field(0.0, ge=0)
    backend: Literal["auto", "tune", "inline"] = "auto"
    address: str | None = None
    retries: int = Field(1, ge=0)
    time_limit_minutes: float | None = Field(None, gt=0)
    trial_limit_minutes: float | None = Field(None, gt=0)

    @field_validator("sampler", mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("warm_start", mode="before")
    @classmethod
    def _expand_folder(cls, value: Any) -> Any:
        if isinstance(value, str | PurePath):
            value = [value]
        if isinstance(value, list | tuple):
            return [str(entry) if isinstance(entry, PurePath) else entry for entry in value]
        return value

    @property
    def assembles(self) -> bool:
        """True if candidates are assembled of distilled blocks."""
        return self.strategy in ("blockwise", "hybrid")

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the costs that are minimised."""
        return tuple(cost.key for cost in self.costs if cost.objective)

    @field_validator("costs", mode="before")
    @classmethod
    def _names_only(cls, costs: Any) -> Any:
        if isinstance(costs, list | tuple):
            return [{"name": cost} if isinstance(cost, str) else cost for cost in costs]
        return costs

    @field_validator("costs")
    @classmethod
    def _some_cost(cls, costs: tuple[CostConfig, ...]) -> tuple[CostConfig, ...]:
        if not any(cost.objective for cost in costs):
            raise ValueError("name at least one cost objective")
        if len({cost.key for cost in costs}) != len(costs):
            raise ValueError("a cost is named twice")
        return costs


class LatencyConfig(Section):
    """Conditions of ``latency_ms``: a ``runtime`` on this machine's CPU with ``batch`` samples and ``threads`` threads.

    Students are exported for the runtime; it is built in (``onnxruntime``, ``pytorch``) or ``package.module:Class``.
    ``calibrate`` candidates of the space are timed before the search to fit the predictor (0 leaves latency out unless
    a budget or objective asks for it).
    """

    runtime: str = "onnxruntime"
    batch: int = Field(1, ge=1, le=65_536)
    threads: int = Field(1, ge=1, le=4096)
    calibrate: int = Field(30, ge=0, le=10_000)
    repeats: int = Field(50, ge=5, le=100_000)


class SearchFile(Section):
    """A search file: teacher, data, space, budget and settings of the search.

    ``calibration``: the ``advice.yaml`` of a calibration, which sets missing keys of ``score`` and ``search``.
    """

    name: str | None = None
    seed: int = 0
    device: str = "auto"
    data: DataConfig
    teacher: TeacherConfig
    space: str | dict[str, Any] = Field(description="a space's name, a file, or a mapping with builder and parameters")
    budget: dict[str, float | str | dict[str, float | str] | list[float | str]] = Field(
        default_factory=dict,
        description="an amount such as 2M, 512KiB or 50%, a range [low, high], or {min: ..., max: ...}",
    )
    search: SearchConfig = SearchConfig()
    score: ScoreConfig = ScoreConfig()
    final: FinalConfig = FinalConfig()
    latency: LatencyConfig = LatencyConfig()
    allocation: AllocationConfig = AllocationConfig()
    blockwise: BlockwiseConfig = BlockwiseConfig()
    calibration: str | None = None

    @field_validator("data", "teacher", mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("budget", mode="before")
    @classmethod
    def _amounts(cls, value: Any) -> Any:
        for name, amount in value.items() if isinstance(value, Mapping) else ():
            if isinstance(amount, bool):
                raise ValueError(f"the amount of '{name}' must not be {'yes' if amount else 'no'}")
        return value


def change_trainings(
    config: SearchFile, change: Callable[[TrainingConfig], Mapping[str, Any]]
) -> tuple[SearchFile, list[str]]:
    """Return a search file with the result of ``change`` applied to each training, and the changed sections."""
    sections = {}
    for name, section in (("score", config.score), ("final", config.final)):
        changes = change(section.training)
        if changes:
            sections[name] = section.model_copy(update={"training": section.training.model_copy(update=changes)})
    return config.model_copy(update=sections), list(sections)


def with_default_losses(config: SearchFile, task: str) -> SearchFile:
    """Return a search file whose default losses are those of a task."""
    loss = default_loss(task)
    if loss == _distillation():
        return config
    return change_trainings(config, lambda training: {} if "loss" in training.model_fields_set else {"loss": loss})[0]


def with_adamw(config: SearchFile) -> tuple[SearchFile, list[str]]:
    """Return a search file that trains by ``adamw`` where no optimiser is given, and the names of those sections.

    A learning rate without a name is one of ``sgd``, the documented default.
    """

    def adamw(training: TrainingConfig) -> Mapping[str, Any]:
        if training.optimizer.model_fields_set & {"name", "lr"}:
            return {}
        return {"optimizer": training.optimizer.model_copy(update={"name": "adamw", "lr": ADAMW_LR})}

    return change_trainings(config, adamw)


def with_sampler_of_cuts(config: SearchFile) -> SearchFile:
    """Return a search file of a space cut from the teacher, whose sampler is ``tpe`` where none is given."""
    sampler = config.search.sampler
    if "name" in sampler.model_fields_set:
        return config
    named = SamplerConfig.model_validate({**sampler.options, "name": "tpe"})
    return config.model_copy(update={"search": config.search.model_copy(update={"sampler": named})})


class TeachFile(Section):
    """A teach file: a teacher to train only on labels. ``output`` is the folder of weights and card."""

    seed: int = 0
    device: str = "auto"
    threads: int = Field(1, ge=1, le=4096)
    data: DataConfig
    builder: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    training: TrainingConfig = TrainingConfig()
    output: str

    @field_validator("data", mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    content = load_strict(path, ConfigError)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no keys; 'nas-distill init' writes a search file to start from.")
    return content


def load_search_file(path: Path) -> SearchFile:
    """Read and check a search file; errors name file and field."""
    return parse(SearchFile, read_yaml(path), source=str(path))


def load_teach_file(path: Path) -> TeachFile:
    """Read and check a teach file; errors name file and field."""
    return parse(TeachFile, read_yaml(path), source=str(path))


def parse(model: type[Model], content: Mapping[str, Any], *, source: str) -> Model:
    """Return ``content`` as an instance of ``model``.

    Raises:
        ConfigError: the first error in one sentence: ``source``, the field, the fault, and a similar key if misspelt.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(model, content, error)}") from error


def dump_yaml(model: BaseModel) -> str:
    """Return a model as YAML with every default written out, so that a run records its settings in full."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
