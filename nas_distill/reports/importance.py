"""Parameter importance for quality, total and at equal cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas_distill.runs.records import TrialRecord
from nas_distill.utils.errors import RunError

FEWEST = 10
FOLDS = 5
SHUFFLES = 10
TREES = 60


@dataclass(frozen=True)
class Importance:
    """Permutation importance of a parameter: shares of variance of at least 0; higher is more important.

    ``quality`` is the share lost when ``parameter`` is shuffled; ``beyond_cost`` is the same for the residual of
    quality after a fit to cost. Shares may sum to more or less than 1, because parameters interact.
    """

    parameter: str
    quality: float
    beyond_cost: float


@dataclass(frozen=True)
class ImportanceReport:
    """Importances, the largest first, and the data that they are computed from.

    Attributes:
        rows: one per parameter that varied.
        rung: the rung whose qualities were used.
        trials: number of trials that reported at this rung.
        explained: share of the variance of quality that the forest predicts on held-out trials (at most 1; near 0 or
            below, the importances are meaningless).
        explained_by_cost: share that a parabola in the logarithm of ``cost`` explains.
        explained_beyond_cost: share of the residual that the forest predicts.
        cost: name of the cost.
    """

    rows: tuple[Importance, ...]
    rung: int
    trials: int
    explained: float
    explained_by_cost: float
    explained_beyond_cost: float
    cost: str


def parameter_importance(records: Sequence[TrialRecord], cost: str, *, seed: int = 0) -> ImportanceReport:
    """Return importances over all trials that reported at the last rung that half of the trained trials reached.

    Stopped trials count at this rung too, so the sample is not limited to trials that survived.

    Raises:
        RunError: fewer than ten trials reported at one rung, or no parameter varies among them.
    """
    usable = [record for record in records if record.params and record.costs.get(cost, 0.0) > 0]
    rung, chosen = _at_one_rung(usable)
    names = sorted({name for record in chosen for name in record.params})
    columns = {name: _column([record.params.get(name) for record in chosen]) for name in names}
    columns = {name: column for name, column in columns.items() if len(np.unique(column)) > 1}
    if not columns:
        raise RunError("Parameter importance needs parameters that vary, but all trained trials have the same values.")
    x = np.column_stack(list(columns.values()))
    quality = np.array([record.rungs[rung] for record in chosen])
    rest = _beyond(quality, np.log([record.costs[cost] for record in chosen]))
    explained, plain = _importances(x, quality, seed)
    explained_rest, beyond = _importances(x, rest, seed)
    rows = [Importance(name, float(plain[i]), float(beyond[i])) for i, name in enumerate(columns)]
    spread = float(quality.var())
    return ImportanceReport(
        rows=tuple(sorted(rows, key=lambda row: (-row.quality, row.parameter))),
        rung=rung,
        trials=len(chosen),
        explained=explained,
        explained_by_cost=1 - float(rest.var()) / spread if spread > 0 else 0.0,
        explained_beyond_cost=explained_rest,
        cost=cost,
    )


def _at_one_rung(records: Sequence[TrialRecord]) -> tuple[int, list[TrialRecord]]:
    reached: dict[int, list[TrialRecord]] = {}
    for record in records:
        for rung, quality in record.rungs.items():
            if math.isfinite(quality):
                reached.setdefault(rung, []).append(record)
    most = max((len(found) for found in reached.values()), default=0)
    if most < FEWEST:
        raise RunError(f"Parameter importance needs at least {FEWEST} trials that reported at one rung, not {most}.")
    rung = max(rung for rung, found in reached.items() if len(found) >= max(FEWEST, most / 2))
    return rung, reached[rung]


def _column(values: list[object]) -> NDArray[np.float64]:
    """Return a numeric column: numbers unchanged, other values by the order of their texts, absent ones lowest."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        numbers = [float(value) for value in present]  # type: ignore[arg-type]
        absent = min(numbers) - 1.0
        return np.array([absent if value is None else float(value) for value in values])  # type: ignore[arg-type]
    order = {text: index for index, text in enumerate(sorted({str(value) for value in present}))}
    return np.array([-1.0 if value is None else float(order[str(value)]) for value in values])


def _beyond(quality: NDArray[np.float64], log_cost: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.ptp(log_cost) == 0:
        result: NDArray[np.float64] = quality - quality.mean()
        return result
    centred = (log_cost - log_cost.mean()) / log_cost.std()
    terms = np.column_stack([np.ones_like(centred), centred, centred**2])
    weights, *_ = np.linalg.lstsq(terms, quality, rcond=None)
    residual: NDArray[np.float64] = quality - terms @ weights
    return residual


def _importances(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> tuple[float, NDArray[np.float64]]:
    """Return the share of the variance of ``y`` [N] predicted out of fold, and the share lost per shuffled column."""
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(seed)
    folds = rng.permutation(len(y)) % FOLDS
    spread = float(((y - y.mean()) ** 2).sum())
    if spread <= 1e-18:
        return 0.0, np.zeros(x.shape[1])
    missed, worse = 0.0, np.zeros(x.shape[1])
    for fold in range(FOLDS):
        test = folds == fold
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=seed, n_jobs=1)
        forest.fit(x[~test], y[~test])
        error = float(((forest.predict(x[test]) - y[test]) ** 2).sum())
        missed += error
        # One large prediction, since each call of a forest has a large overhead.
        wrong = np.tile(x[test], (x.shape[1], SHUFFLES, 1, 1))
        for column in range(x.shape[1]):
            # Drawn from all trials: a small fold that is shuffled within itself may hardly change.
            wrong[column, ..., column] = rng.choice(x[:, column], size=(SHUFFLES, int(test.sum())))
        predicted = forest.predict(wrong.reshape(-1, x.shape[1])).reshape(x.shape[1], SHUFFLES, -1)
        worse += ((predicted - y[test]) ** 2).sum(axis=2).mean(axis=1) - error
    return 1 - missed / spread, np.maximum(worse / spread, 0.0)
