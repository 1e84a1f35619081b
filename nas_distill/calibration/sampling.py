"""Trainings of a calibration: sampled architectures with short and full schedules."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nas_distill.calibration.trainings import Reading, TrainingTable
from nas_distill.config import TrainingConfig
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.seeds import derive

FULL, LABELS, CONSTANT = "full", "full-labels", "kd-constant"
_POOL = 12


@dataclass(frozen=True)
class Network:
    """An architecture under a ``name`` that is unique in a table, with its costs (flops and params among them)."""

    name: str
    architecture: Architecture
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Recipe:
    """A kind of training that every network gets.

    Attributes:
        kind: its name in the table.
        training: the settings.
        readings: epochs after which it is measured, rising to ``training.epochs``.
        teacher: True with the teacher, False on labels only.
        seeds: number of trainings per network.
        series: trainings of the same series and seed share initial weights, sample order and views.
    """

    kind: str
    training: TrainingConfig
    readings: tuple[float, ...]
    teacher: bool = True
    seeds: int = 1
    series: str = "short"

    @property
    def epochs(self) -> float:
        """Epochs per network, over all seeds."""
        return self.training.epochs * self.seeds


def short_kind(teaching: str, epochs: float) -> str:
    """Return the kind of a short run with its own schedule, such as ``kd@1``."""
    return f"{teaching}@{epochs:.4g}"


def recipe(
    kind: str,
    training: TrainingConfig,
    budgets: Iterable[float],
    *,
    teacher: bool = True,
    seeds: int = 1,
    series: str = "short",
) -> Recipe:
    """Return a recipe that is measured at its end and at those ``budgets`` (epochs) that come before it."""
    readings = [epochs for epochs in sorted(set(budgets)) if epochs < training.epochs * (1 - 1e-9)]
    return Recipe(kind, training, (*readings, training.epochs), teacher, seeds, series)


def standard_recipes(
    score: TrainingConfig, final: TrainingConfig, budgets: Sequence[float], *, seeds: int = 2
) -> list[Recipe]:
    """Return the full distillation with ``seeds`` seeds, full training on labels, and short runs per budget.

    A short run anneals within its own budget, with the teacher (``kd@r``) and on labels (``ce@r``). A further one
    (``kd-constant``) has a constant learning rate and is measured at each budget up to the largest.
    """
    short = {epochs: score.model_copy(update={"epochs": epochs}) for epochs in sorted(set(budgets))}
    largest = max(short)
    constant = short[largest].model_copy(update={"decay": "constant"})
    return [
        recipe(FULL, final, budgets, seeds=seeds, series="full"),
        *(recipe(short_kind("kd", epochs), training, budgets) for epochs, training in short.items()),
        *(recipe(short_kind("ce", epochs), training, budgets, teacher=False) for epochs, training in short.items()),
        recipe(CONSTANT, constant, budgets),
        recipe(LABELS, final, budgets, teacher=False, series="full"),
    ]


class CalibrationSource:
    """Work source of the trainings that a table lacks (implements ``engine.work.WorkSource``).

    Trainings come network by network, so that an interrupted table has complete networks. A training that another
    session began starts again, because its reports were not stored.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        recipes: Sequence[Recipe],
        table: TrainingTable,
        checkpoints: Path,
        *,
        seed: int,
        on_done: Callable[[int, int, str], None] = lambda done, total, text: None,
    ) -> None:
        self.stopping = False
        self._table, self._checkpoints, self._on_done = table, checkpoints, on_done
        self._open: dict[str, tuple[Network, Recipe, int, list[RungResult]]] = {}
        jobs = [(network, entry, index) for network in networks for entry in recipes for index in range(entry.seeds)]
        self._waiting = [job for job in jobs if (job[0].name, job[1].kind, job[2]) not in table]
        self.total, self.done = len(jobs), len(jobs) - len(self._waiting)
        self._seed = seed
        shutil.rmtree(checkpoints, ignore_errors=True)

    def stop(self) -> None:
        """Start no more trainings; those in flight end as interrupted."""
        self.stopping = True

    def next(self) -> Work | None:
        """Return the next training."""
        if self.stopping or not self._waiting:
            return None
        network, entry, index = self._waiting.pop(0)
        key = f"{network.name}-{entry.kind}-{index}"
        self._open[key] = network, entry, index, []
        return Work(
            key=key,
            architecture=network.architecture,
            training=entry.training,
            rungs=tuple(epochs / entry.training.epochs for epochs in entry.readings),
            seed=derive(self._seed, "calibration", entry.series, index),
            checkpoint=self._checkpoints / key,
            teacher=entry.teacher,
            watch=True,
        )

    def report(self, key: str, result: RungResult) -> bool:
        """Record a result; a rung that is reported again after a worker's death is recorded once. Stop no training."""
        results = self._open[key][3]
        if result.rung == len(results):
            results.append(result)
        return True

    def finish(self, key: str, outcome: Outcome) -> None:
        """Add a training that completed or failed to the table; one that was interrupted is not added."""
        network, entry, index, results = self._open.pop(key)
        shutil.rmtree(self._checkpoints / key, ignore_errors=True)
        if outcome.kind in ("interrupted", "stopped"):
            return
        if outcome.kind == "complete" and len(results) == len(entry.readings):
            readings = [_reading(network, entry, index, result) for result in results]
        else:
            lost = RungResult(len(entry.readings) - 1, 0, math.nan, math.nan)
            readings = [_reading(network, entry, index, lost, outcome.cause or "it ended early")]
        self._table.append(readings)
        self.done += 1
        self._on_done(self.done, self.total, f"{key}: {readings[-1].cause or f'{readings[-1].quality:.2%}'}")


def _reading(network: Network, entry: Recipe, index: int, result: RungResult, cause: str = "") -> Reading:
    return Reading(
        network=network.name,
        flops=network.costs["flops"],
        params=network.costs["params"],
        kind=entry.kind,
        seed=index,
        epochs=entry.readings[result.rung],
        of=entry.training.epochs,
        step=result.step,
        quality=result.quality,
        last=result.metrics.get("last", math.nan),
        loss=result.metrics.get("loss", math.nan),
        seconds=result.seconds,
        cause=cause,
    )


def draw_networks(
    space: SearchSpace,
    pricing: Pricing,
    *,
    count: int,
    by: str,
    rng: np.random.Generator,
    whole_range: bool = False,
) -> list[Network]:
    """Return up to ``count`` different architectures within the budget, spread evenly over the logarithm of a cost.

    They are named ``<space>-<index>`` by rising cost. Their order is such that every prefix is spread too. There are
    fewer where the space has fewer; architectures that cannot be built are left out.

    Args:
        space: the space to sample.
        pricing: costs of architectures, and the budget.
        count: architectures.
        by: the cost over which they are spread.
        rng: of the draw.
        whole_range: include architectures that are over the budget.
    """
    half = _POOL * count // 2
    drawn = [space.smallest(), space.largest(), *space.spread(half, rng), *(space.sample(rng) for _ in range(half))]
    priced: list[tuple[Architecture, dict[str, float]]] = []
    for architecture in dict.fromkeys(drawn):
        found = pricing.known(architecture)
        if found is not None and found[by] > 0 and (whole_range or pricing.budget.fits(found)):
            priced.append((architecture, found))
    chosen = log_spaced_indices([found[by] for _, found in priced], count)
    name = re.sub(r"[^\w.]+", "-", space.name).strip("-") or "space"
    named = [Network(f"{name}-{rank:02d}", *priced[index]) for rank, index in enumerate(chosen)]
    return [named[rank] for rank in halving_order(len(named))]


def log_spaced_indices(values: Sequence[float], count: int) -> list[int]:
    """Return indices of up to ``count`` of ``values`` (positive), by rising value, as even as possible in log scale."""
    if not len(values):
        return []
    logs = np.log(np.asarray(values, dtype=float))
    left = list(np.argsort(logs, kind="stable"))
    chosen: list[int] = []
    for aim in np.linspace(logs.min(), logs.max(), min(count, len(left))):
        index = min(left, key=lambda index: abs(logs[index] - aim))
        left.remove(index)
        chosen.append(int(index))
    return sorted(chosen, key=lambda index: (logs[index], index))


def halving_order(count: int) -> list[int]:
    """Return 0 to ``count`` - 1 in an order of which every prefix is spread: both ends, then middles of widest gaps.

    Of equally wide gaps, the one furthest from the previous index comes first.
    """
    order = [0, count - 1] if count > 1 else list(range(count))
    while len(order) < count:
        gaps = pairwise(sorted(order))
        low, high = max(gaps, key=lambda gap: (gap[1] - gap[0], abs(gap[0] - order[-1])))
        order.append((low + high) // 2)
    return order
