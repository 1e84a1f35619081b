"""Replays finished trainings under a pruning rule: asynchronous workers, rung by rung, each at its candidate's pace."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nas_distill.engine.early_stopping import Report, Rule
from nas_distill.runs.pareto import hypervolume, non_dominated

WORKERS = 4
NONE, HALVING = "none", "halving by quality only, eta 3"


@dataclass(frozen=True)
class Candidate:
    """A finished training.

    By rung: ``quality`` (higher is better), ``work`` (training cost so far) and ``seconds`` (so far, at its own pace).
    ``costs`` (lower is better) are known from the start.
    """

    number: int
    costs: Mapping[str, float]
    quality: tuple[float, ...]
    work: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass
class Judged:
    """Outcome of a replay: numbers of candidates trained to their end, training cost and seconds spent."""

    complete: list[int] = field(default_factory=list)
    spent: float = 0.0
    seconds: float = 0.0


def replay(candidates: Sequence[Candidate], rule: Rule, *, workers: int, budget: float = np.inf) -> Judged:
    """Try candidates in order, on ``workers`` workers, until all are done or the training cost ``budget`` is spent.

    A piece of training that the budget does not cover is not begun. Whatever was reported at a rung is history for
    those that report there later.
    """
    waiting = list(reversed(candidates))
    history: dict[int, list[Report]] = {}
    judged = Judged()
    running: list[tuple[float, int, Candidate, int]] = []  # when it reports, a tie-breaker, who, at which rung
    count = 0

    def begin(now: float, candidate: Candidate, rung: int) -> bool:
        nonlocal count
        work = candidate.work[rung] - (candidate.work[rung - 1] if rung else 0.0)
        seconds = candidate.seconds[rung] - (candidate.seconds[rung - 1] if rung else 0.0)
        # Summed in pieces, so a full training may come out a hair above its own cost.
        if judged.spent + work > budget * (1 + 1e-9):
            return False
        judged.spent += work
        judged.seconds += seconds
        heapq.heappush(running, (now + seconds, count, candidate, rung))
        count += 1
        return True

    for _ in range(min(workers, len(waiting))):
        begin(0.0, waiting.pop(), 0)
    while running:
        now, _, candidate, rung = heapq.heappop(running)
        goes_on = rung < len(candidate.quality) - 1
        if goes_on:
            reports = history.setdefault(rung, [])
            goes_on = not rule.judge(rung, candidate.quality[rung], candidate.costs, reports).stop
            reports.append(Report(candidate.number, candidate.costs, candidate.quality[rung]))
        else:
            judged.complete.append(candidate.number)
        if goes_on and begin(now, candidate, rung + 1):
            continue
        if waiting and not goes_on:
            begin(now, waiting.pop(), 0)
    return judged


class Pool:
    """Candidates numbered by their place, and how much any of them cover in final quality and costs."""

    def __init__(self, candidates: Sequence[Candidate], costs: Sequence[str]) -> None:
        self.candidates = list(candidates)
        self.costs = tuple(costs)
        quality = np.array([candidate.quality[-1] for candidate in candidates])
        paid = np.log([[candidate.costs[name] for name in costs] for candidate in candidates])
        self._points = np.column_stack([quality, paid])
        # Nine tenths of all reach this quality; a reference at the very worst would let one outlier fill the picture.
        self._reference = [float(np.quantile(quality, 0.1)), *(float(worst) for worst in paid.max(axis=0))]
        self._maximise = [True, *(False for _ in costs)]
        self.whole = self.hypervolume(range(len(candidates)))

    def hypervolume(self, places: Sequence[int] | range) -> float:
        """Return what the candidates at these places cover; higher is better."""
        return hypervolume(self._points[list(places)], self._reference, self._maximise)

    def front(self, places: Sequence[int]) -> list[int]:
        """Return the indices that no other of them beats, by rising cost."""
        mask = non_dominated(self._points[places], self._maximise)
        return sorted((place for place, keep in zip(places, mask) if keep), key=lambda place: self._points[place, 1])


def losses(pool: Pool, judged: Judged, order: Sequence[int] | np.ndarray) -> list[float]:
    """Return shares of training saved, hypervolume kept, front lost, and the cheapest third of the front lost."""
    chosen = [int(place) for place in order]
    front = pool.front(chosen)
    third = front[: -(-len(front) // 3)]
    kept = set(judged.complete)
    total = sum(pool.candidates[place].work[-1] for place in chosen)
    return [
        1 - judged.spent / total,
        pool.hypervolume(judged.complete) / pool.hypervolume(chosen),
        1 - sum(place in kept for place in front) / len(front),
        1 - sum(place in kept for place in third) / len(third),
    ]


def replayed(
    pool: Pool, order: Sequence[int] | np.ndarray, rule: Rule, budget: float = np.inf, workers: int = WORKERS
) -> Judged:
    """Replay the candidates at places of a pool, in that order."""
    return replay([pool.candidates[int(place)] for place in order], rule, workers=workers, budget=budget)


def mean_text(values: np.ndarray, *, percent: bool = False) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.1%} ± {error:.1%}" if percent else f"{values.mean():.3f} ± {error:.3f}"
