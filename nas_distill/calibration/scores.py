"""Scores from a table of trainings, and their rank correlation with full quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from nas_distill.calibration import rank_statistics as ranking
from nas_distill.calibration.trainings import Reading
from nas_distill.evaluate.intervals import Array, bootstrap_weights, kendall_tau, percentile_interval, weighted_taus

FULL, LABELS, CONSTANT = "full", "full-labels", "kd-constant"
CEILING = "full distillation, another seed"
BAND = 1.5
_TOP = 5  # a fifth
_FEWEST = 4


class Figure(StrEnum):
    """Figures of a reading that are scores; the values are fields of ``Reading``."""

    QUALITY = "quality"  # of the averaged weights
    LAST = "last"  # quality of the last weights
    LOSS = "loss"  # sum of the training loss over the steps


class Study:
    """Readings of the networks of a space, as arrays [N] over ``networks`` (NaN where a reading is missing).

    ``flops`` and ``params`` [N]; ``target``: quality after full distillation by seed; ``labels``: quality after full
    training on labels only by seed.
    """

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._index = {(entry.network, entry.kind, entry.seed, entry.epochs): entry for entry in readings}
        self.readings = list(readings)
        self.networks = sorted({entry.network for entry in readings})
        costs = {entry.network: (entry.flops, entry.params) for entry in readings}
        self.flops, self.params = (np.array([costs[name][column] for name in self.networks]) for column in (0, 1))
        self.target = self._full(FULL)
        self.labels = self._full(LABELS)
        self.failed = {entry.training for entry in readings if entry.cause}

    def column(self, kind: str, epochs: float, figure: str = Figure.QUALITY, seed: int = 0) -> Array:
        """Return a figure [N] of a kind of training after ``epochs``."""
        found = [self._index.get((name, kind, seed, epochs)) for name in self.networks]
        return np.array([math.nan if entry is None else getattr(entry, figure) for entry in found], dtype=float)

    def kinds(self) -> list[str]:
        """Return the kinds of training, in the order of their first readings."""
        return list(dict.fromkeys(entry.kind for entry in self.readings))

    def epochs(self, kind: str) -> list[float]:
        """Return the epochs at which a kind was measured, rising."""
        return sorted({entry.epochs for entry in self.readings if entry.kind == kind})

    def length(self, kind: str) -> float:
        """Return the length of a kind in epochs."""
        return self.epochs(kind)[-1]

    def seeds(self, kind: str) -> list[int]:
        """Return the seeds of a kind."""
        return sorted({entry.seed for entry in self.readings if entry.kind == kind})

    def seconds(self, kind: str, epochs: float) -> float | None:
        """Return the seconds of training up to a reading, averaged over networks and seeds."""
        found = np.array([self.column(kind, epochs, "seconds", seed) for seed in self.seeds(kind)])
        return float(np.nanmean(found)) if found.size and np.isfinite(found).any() else None

    def full_quality(self) -> Array:
        """Return quality [N] after full distillation, averaged over the seeds; NaN where one is missing."""
        return np.mean(list(self.target.values()), axis=0) if self.target else np.full(len(self.networks), math.nan)

    def noise(self) -> float | None:
        """Return the standard deviation of full quality between seeds."""
        return ranking.seed_deviation(list(self.target.values()))

    def _full(self, kind: str) -> dict[int, Array]:
        return {seed: self.column(kind, self.length(kind), seed=seed) for seed in self.seeds(kind)}


def by_space(readings: Sequence[Reading]) -> dict[str, Study]:
    """Return a study per space; networks are named ``<space>-<index>``."""
    spaces: dict[str, list[Reading]] = {}
    for entry in readings:
        spaces.setdefault(entry.network.rpartition("-")[0], []).append(entry)
    return {space: Study(found) for space, found in sorted(spaces.items())}


@dataclass(frozen=True)
class Score:
    """A figure that ranks networks; higher is better.

    Attributes:
        name: in tables.
        values: [N] by the seed of the full training that they are read from, by None for any other source.
        seconds: training time that the score needs, averaged over the networks.
        fitted: the values are fitted to the target together with log FLOPs and log parameters, by leave-one-out.
        figure: the figure that is read from a training; None for scores that are not.
        early: it is read before the end of the training.
    """

    name: str
    values: Mapping[int | None, Array]
    seconds: float | None = None
    fitted: bool = False
    figure: Figure | None = None
    early: bool = False

    def with_costs(self) -> Score:
        """Return the score of a fit by this score and the costs."""
        return Score(f"{self.name} + log costs (fit)", self.values, self.seconds, fitted=True)


@dataclass(frozen=True)
class Ranking:
    """Agreement of a score's ranking with that of full quality, averaged over full trainings of other seeds.

    Attributes:
        name: of the score.
        count: networks.
        tau: Kendall's tau-b; None where it is undefined.
        interval: 95 % bootstrap interval of tau.
        band: tau over the pairs that are less than a factor ``BAND`` apart in FLOPs.
        top: size of the best fifth.
        recall: share of the best ``top`` networks that are among the score's best ``top``; higher is better.
        regret: loss of quality by taking the score's best network; 0 is best.
        seconds: training time that the score needs per network.
        share: the same as a share of a full distillation's time.
        figure: as of ``Score``.
        early: as of ``Score``.
        draws: tau per bootstrap draw.
    """

    name: str
    count: int
    tau: float | None
    interval: tuple[float, float] | None
    band: float | None
    top: int
    recall: float
    regret: float
    seconds: float | None
    share: float | None
    figure: Figure | None
    early: bool
    draws: Array = field(repr=False, compare=False)


def all_scores(study: Study) -> list[Score]:
    """Return all scores of a study: costs, fits, and each read-out of each short training."""
    free = [
        Score("FLOPs", {None: np.log(study.flops)}, 0.0),
        Score("parameters", {None: np.log(study.params)}, 0.0),
        Score("log costs (fit)", {None: np.zeros(len(study.networks))}, 0.0, fitted=True),
    ]
    short = [score for kind in study.kinds() if kind != LABELS for score in _of_kind(study, kind)]
    gains = [
        gain(study, kind.removeprefix("kd@"))
        for kind in study.kinds()
        if kind.startswith("kd@") and f"ce@{kind.removeprefix('kd@')}" in study.kinds()
    ]
    fits = [score.with_costs() for score in short if score.name in set(study.kinds())]
    return [*free, *short, *gains, *fits, *ceiling(study)]


def read_out(study: Study, kind: str, epochs: float | None = None, figure: Figure = Figure.QUALITY) -> Score:
    """Return a figure of a kind of training after ``epochs`` (its end unless given) as a score.

    The sum of the training loss over the steps is negated (TSE; Ru et al., 2021).
    """
    reached = study.length(kind) if epochs is None else epochs
    sign = -1.0 if figure is Figure.LOSS else 1.0
    values: dict[int | None, Array] = {
        (seed if kind == FULL else None): sign * study.column(kind, reached, figure, seed) for seed in study.seeds(kind)
    }
    return Score(
        read_out_name(study, kind, reached, figure),
        values,
        study.seconds(kind, reached),
        figure=figure,
        early=reached != study.length(kind),
    )


def read_out_name(study: Study, kind: str, epochs: float, figure: Figure) -> str:
    """Return the name of a read-out, such as ``kd@3, read at 1, last weights``."""
    name = kind if epochs == study.length(kind) else f"{kind}, read at {epochs:.4g}"
    return name + {Figure.QUALITY: "", Figure.LAST: ", last weights", Figure.LOSS: ", TSE"}[figure]


def gain(study: Study, epochs: str) -> Score:
    """Return the score KD - CE of the short runs of a budget; ``epochs`` as in their kinds."""
    taught, plain = read_out(study, f"kd@{epochs}"), read_out(study, f"ce@{epochs}")
    paid = None if taught.seconds is None or plain.seconds is None else taught.seconds + plain.seconds
    return Score(f"kd-ce@{epochs}", {None: taught.values[None] - plain.values[None]}, paid)


def ceiling(study: Study) -> list[Score]:
    """Return the full distillation as a score for its other seeds; empty with fewer than two seeds."""
    if len(study.target) < 2:
        return []
    values: dict[int | None, Array] = dict(study.target.items())
    return [Score(CEILING, values, study.seconds(FULL, study.length(FULL)))]


def rank(
    study: Study, score: Score, target: Mapping[int, Array] | None = None, among: np.ndarray | None = None
) -> Ranking | None:
    """Compare a score's ranking of networks with that by ``target`` (by seed; full distillation unless given).

    Networks without a value or a target are left out, as are those outside of the mask ``among`` [N]. None where fewer
    than four remain.
    """
    pairs = _pairs(score, study.target if target is None else target)
    if not pairs:
        return None
    known = _known(pairs)
    if among is not None:
        known = known & among
    count = int(known.sum())
    if count < (_FEWEST + 3 if score.fitted else _FEWEST):
        return None
    costs = [np.log(study.flops[known]), np.log(study.params[known])]
    shown = [(values[known], aim[known]) for values, aim in pairs]
    if score.fitted:
        shown = [(ranking.leave_one_out([values, *costs], aim), aim) for values, aim in shown]
    weights, close = bootstrap_weights(count), ranking.similar_cost_pairs(study.flops[known], BAND)
    draws = _mean([weighted_taus(values, aim, weights) for values, aim in shown])
    top = max(1, round(count / _TOP))
    full = study.seconds(FULL, study.length(FULL)) if study.target else None
    return Ranking(
        name=score.name,
        count=count,
        tau=_mean_or_none([kendall_tau(values, aim) for values, aim in shown]),
        interval=percentile_interval(draws),
        band=_mean_or_none([kendall_tau(values, aim, close) for values, aim in shown]),
        top=top,
        recall=float(np.mean([ranking.top_recall(values, aim, top) for values, aim in shown])),
        regret=float(np.mean([ranking.regret(values, aim) for values, aim in shown])),
        seconds=score.seconds,
        share=None if score.seconds is None or not full else score.seconds / full,
        figure=score.figure,
        early=score.early,
        draws=draws,
    )


@dataclass(frozen=True)
class Difference:
    """Difference of two scores' taus, and its 95 % interval, paired over networks; above 0 the first ranks better."""

    tau: float
    interval: tuple[float, float]

    @property
    def sure(self) -> bool:
        """True where the interval excludes 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


def difference(
    study: Study, one: Score | None, other: Score | None, target: Mapping[int, Array] | None = None
) -> Difference | None:
    """Return tau of ``one`` less tau of ``other``, over the networks that have both; None where either is undefined.

    ``target`` is full distillation unless given.
    """
    if one is None or other is None:
        return None
    among = common(study, [one, other], target)
    ours, theirs = (rank(study, score, target, among) for score in (one, other))
    if ours is None or theirs is None or ours.tau is None or theirs.tau is None:
        return None
    found = percentile_interval(ours.draws - theirs.draws)
    return None if found is None else Difference(ours.tau - theirs.tau, found)


def common(study: Study, scores: Sequence[Score], target: Mapping[int, Array] | None = None) -> NDArray[np.bool_]:
    """Return the mask [N] of networks with a value of each score and of the full trainings that it is compared with."""
    compared = [_pairs(score, study.target if target is None else target) for score in scores]
    masks = [_known(pairs) for pairs in compared if pairs]
    return np.array(np.all(masks, axis=0), dtype=bool) if masks else np.ones(len(study.networks), dtype=bool)


def _pairs(score: Score, target: Mapping[int, Array]) -> list[tuple[Array, Array]]:
    return [(values, aim) for own, values in score.values.items() for seed, aim in target.items() if own != seed]


def _known(pairs: Sequence[tuple[Array, Array]]) -> NDArray[np.bool_]:
    return np.array(np.all([np.isfinite(array) for pair in pairs for array in pair], axis=0), dtype=bool)


def _of_kind(study: Study, kind: str) -> list[Score]:
    found = []
    for epochs in study.epochs(kind):
        if kind == FULL and epochs == study.length(kind):
            continue  # the target itself
        for figure in Figure:
            score = read_out(study, kind, epochs, figure)
            if any(np.isfinite(values).any() for values in score.values.values()):
                found.append(score)
    return found


def _mean(arrays: Sequence[Array]) -> Array:
    return np.array(np.mean(arrays, axis=0), dtype=float)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
