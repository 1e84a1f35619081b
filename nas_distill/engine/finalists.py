"""Finalists: the choice of candidates for full distillation, and their trainings."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas_distill.config import FinalConfig, TrainingConfig
from nas_distill.engine.work import Outcome, RungResult, Work, epoch_rungs
from nas_distill.export.provenance import Provenance
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import Journal
from nas_distill.runs.metadata import Finalist, RunMetadata
from nas_distill.runs.pareto import front_records
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.utils.checkpoints import json_digest
from nas_distill.utils.seeds import derive

_NEAR_LIMIT = 0.7
_BASELINE = "-labels"


@dataclass(frozen=True)
class FinalProgress:
    """Epochs of all full trainings: ``done`` of ``total``, ``length`` each.

    ``seconds_left`` is an estimate of the time by the clock, None before any has trained an epoch.
    """

    done: int
    total: int
    length: int
    seconds_left: float | None


def final_progress(entries: Sequence[Finalist], final: FinalConfig, workers: int) -> FinalProgress:
    """Return how far full trainings are, and how long the rest takes at their pace on ``workers`` workers.

    The baseline counts from the beginning, although which architecture it has is known only later.
    """
    length = len(epoch_rungs(final.training.epochs))
    left = [(entry, 0 if entry.done else max(0, length - len(entry.qualities))) for entry in entries]
    done = sum(len(entry.qualities) for entry in entries)
    epochs = [epochs for _, epochs in left]
    if final.baseline and entries and all(entry.taught for entry in entries):
        epochs.append(length)
    trained = [entry for entry in entries if entry.qualities]
    if not trained:
        return FinalProgress(done, done + sum(epochs), length, None)
    paces = {entry.key: entry.seconds / len(entry.qualities) for entry in trained}
    usual = sum(paces.values()) / len(paces)
    seconds = [count * paces.get(entry.key, usual) for entry, count in left]
    seconds += [usual * count for count in epochs[len(left) :]]
    # One training is not shared between workers.
    return FinalProgress(done, done + sum(epochs), length, max(sum(seconds) / max(1, workers), *seconds))


def choose_finalists(
    records: Sequence[TrialRecord],
    costs: Sequence[str],
    limits: Mapping[str, float],
    count: int,
    slope: float = 0.0,
) -> list[TrialRecord]:
    """Return up to ``count`` candidates for full distillation, best short score first.

    Short runs favour small networks that start fast: of two with equal short scores the more expensive ends higher. So
    candidates are compared by their expected final quality, the short score plus ``slope`` for each doubling of the
    first cost objective. The finalists are the best by it of the front that it makes with the costs, and one near
    the budget's limit if none of those is. Near means at least 70 % of the limit on some objective (of any limit, where
    no objective has one); it is the best such candidate that was trained to the end, else the best that was stopped;
    where there is none, or there are no limits, it is the most expensive of the front. A single finalist is the best
    of the front.

    Args:
        records: the run's trials, over-budget ones left out by their state.
        costs: the cost objectives.
        limits: upper limits by cost name.
        count: at least 1.
        slope: in units of quality, at least 0.
    """

    def expected(record: TrialRecord) -> float:
        return expected_quality(record.final_quality, record.costs[costs[0]], slope)

    front = sorted(front_records(records, costs, quality=expected), key=lambda record: -expected(record))
    if not front:
        return []
    chosen = front[:count]
    # A limit on a cost that is not an objective may be nearly reached by a network that is cheap where it counts.
    limits = {name: limits[name] for name in costs if name in limits} or limits
    if count > 1 and not any(_is_near(record, limits) for record in chosen):
        costly = _near_limit(records, limits) or max(front, key=lambda record: record.costs[costs[0]])
        if costly not in chosen:
            chosen = [*chosen[: count - 1], costly]
    return sorted(chosen, key=_quality, reverse=True)


def expected_quality(short: float, cost: float, slope: float) -> float:
    """Return the quality expected of a full distillation, up to a constant: see ``choose_finalists``."""
    return short + slope * math.log2(cost) if slope and cost > 0 else short


def _is_near(record: TrialRecord, limits: Mapping[str, float]) -> bool:
    shares = [record.costs[name] / limit for name, limit in limits.items() if record.costs.get(name) and limit]
    return bool(shares) and max(shares) >= _NEAR_LIMIT


def _near_limit(records: Sequence[TrialRecord], limits: Mapping[str, float]) -> TrialRecord | None:
    for state in ("complete", "pruned"):
        candidates = [record for record in records if record.state == state and _is_near(record, limits)]
        candidates = [record for record in candidates if _quality(record) > -math.inf]
        if candidates:
            # A stopped one is judged where it stopped: further is better, then the quality there.
            return max(candidates, key=lambda record: (max(record.reports), _quality(record)))
    return None


def _quality(record: TrialRecord) -> float:
    return record.quality if record.quality is not None and math.isfinite(record.quality) else -math.inf


def best_finalist(finalists: Iterable[Finalist]) -> Finalist | None:
    """Return the taught finalist of the highest validation quality; of equals, the cheaper; None if all failed."""
    done = [entry for entry in finalists if entry.taught and entry.quality is not None]
    if not done:
        return None
    return max(done, key=lambda entry: (entry.quality, *(-cost for cost in entry.costs.values())))


def baseline_key(key: str) -> str:
    """Return the key of the training of a finalist's architecture on labels only."""
    return f"{key}{_BASELINE}"


class FinalistSource:
    """Work source of full trainings: the finalists with the uniform network, then the baseline of the leading one.

    While the last finalists train, an idle worker starts the baseline of the one that leads at equal epochs (by short
    score, before any has reported); should another overtake it, that one's baseline is trained too. When it has no more
    work it may not be ``complete`` yet, as which baseline is missing shows only when all have ended: then run it again.

    ``uniform`` (a training that has not begun, see ``engine/uniform.py``) is trained even if it is not among the
    ``chosen``, on the same settings, seed and number of samples. It is a finalist like the others: if it has the best
    validation quality, it is the student.

    What the journal holds of finalists counts if it came of this training and seed; other entries are dropped.
    """

    def __init__(
        self,
        folder: RunFolder,
        journal: Journal,
        final: FinalConfig,
        chosen: Sequence[TrialRecord],
        *,
        seed: int,
        workers: int = 1,
        uniform: Finalist | None = None,
        on_event: Callable[[Finalist], None] = lambda finalist: None,
    ) -> None:
        self.stopping = False
        self._workers = workers
        self._folder, self._journal, self._final, self._seed = folder, journal, final, seed
        self._on_event = on_event
        self._recipe = recipe_of(final.training, seed)
        wanted = [_as_finalist(record, self._recipe) for record in chosen]
        # What is finished counts, whatever was chosen then; what is not, only if it would be chosen now.
        known = [entry for entry in journal.metadata.finalists.values() if entry.recipe == self._recipe]
        if uniform is not None and not _of(uniform.architecture, wanted):
            # It may have become a trial since its training began; that continues.
            again = _of(uniform.architecture, known)
            wanted.append(again or uniform.model_copy(update={"recipe": self._recipe}))
        keys = {entry.key for entry in wanted}
        kept = [entry for entry in known if entry.done or entry.key.removesuffix(_BASELINE) in keys]
        self._entries = {entry.key: entry for entry in kept}
        for entry in wanted:
            self._entries.setdefault(entry.key, entry)
        self._started: set[str] = set()
        self._began = time.monotonic()
        self._done_before = sum(len(entry.qualities) for entry in self.entries)

    @property
    def entries(self) -> list[Finalist]:
        """All finalists and baselines as they stand."""
        return list(self._entries.values())

    def progress(self) -> FinalProgress:
        """Return how far all trainings are."""
        found = final_progress(self.entries, self._final, self._workers)
        here = found.done - self._done_before
        if found.seconds_left is None or here <= 0:
            return found
        # Epochs also wait for workers, validation and files, which only the clock shows.
        by_clock = (found.total - found.done) * (time.monotonic() - self._began) / here
        return replace(found, seconds_left=max(found.seconds_left, by_clock))

    @property
    def complete(self) -> bool:
        """True if the trainings of all finalists and of the baseline have ended."""
        if any(not entry.done for entry in self._entries.values() if entry.taught):
            return False
        return self._missing_baseline() is None

    def stop(self) -> None:
        """Hand out no more, and let what is in flight end as interrupted."""
        self.stopping = True

    def next(self) -> Work | None:
        """Return the next full training."""
        if self.stopping:
            return None
        for entry in self._entries.values():
            if entry.taught and not entry.done and entry.key not in self._started:
                return self._work(entry)
        baseline = self._missing_baseline()
        if baseline is None or baseline.key in self._started:
            return None
        self._entries.setdefault(baseline.key, baseline)
        return self._work(baseline)

    def report(self, key: str, result: RungResult) -> bool:
        """Note a result; nothing is stopped for it. What was reported before a death is reported again: noted once."""
        qualities = self._entries[key].qualities
        if result.rung >= len(qualities):
            self._keep(key, qualities=(*qualities, result.quality), seconds=result.seconds, steps=result.step)
        # Also when stopping: the backend then ends it as interrupted, which is not to be taken for a judgement.
        return True

    def finish(self, key: str, outcome: Outcome) -> None:
        """Note how a training ended, in the journal."""
        self._started.discard(key)
        if outcome.kind in ("interrupted", "stopped"):
            return
        quality = self._entries[key].qualities[-1] if self._entries[key].qualities else math.nan
        if outcome.kind == "complete" and math.isfinite(quality):
            self._keep(key, quality=quality)
        else:
            self._keep(key, cause=outcome.cause or "its logits became NaN or infinite")
        shutil.rmtree(self._checkpoint(key), ignore_errors=True)

    def _missing_baseline(self) -> Finalist | None:
        if not self._final.baseline:
            return None
        leader = self._leader()
        if leader is None:
            return None
        key = baseline_key(leader.key)
        found = self._entries.get(key)
        if found is not None:
            return None if found.done else found
        return Finalist(
            key=key,
            trial=leader.trial,
            architecture=leader.architecture,
            costs=leader.costs,
            taught=False,
            score=leader.score,
            recipe=self._recipe,
        )

    def _leader(self) -> Finalist | None:
        taught = [entry for entry in self._entries.values() if entry.taught and entry.cause is None]
        if all(entry.done for entry in taught):
            return best_finalist(taught)
        running = [entry for entry in taught if entry.qualities]
        if not running:
            return max(taught, key=lambda entry: _finite(entry.score))
        epoch = min(len(entry.qualities) for entry in running) - 1
        return max(running, key=lambda entry: _finite(entry.qualities[epoch]))

    def _keep(self, key: str, **changes: Any) -> None:
        self._entries[key] = self._entries[key].model_copy(update=changes)
        self._journal.note(finalists=self._entries)
        self._on_event(self._entries[key])

    def _work(self, entry: Finalist) -> Work:
        self._started.add(entry.key)
        teacher = self._journal.metadata.teacher
        return Work(
            key=entry.key,
            architecture=Architecture(entry.architecture),
            training=self._final.training,
            rungs=epoch_rungs(self._final.training.epochs),
            seed=derive(self._seed, "final"),
            checkpoint=self._checkpoint(entry.key),
            teacher=entry.taught,
            output=self._folder.student(entry.key),
            provenance=Provenance(
                kind="final" if entry.taught else "labels",
                key=entry.key,
                trial=entry.key.removesuffix(_BASELINE),
                teacher=teacher.name if entry.taught and teacher is not None else None,
                recipe=self._recipe,
            ),
        )

    def _checkpoint(self, key: str) -> Path:
        # A finalist's key is its trial's, so its checkpoint needs a name of its own; and one of another recipe is none.
        return self._folder.checkpoint(f"{key}-final-{self._recipe}")


def uniform_of(metadata: RunMetadata) -> Finalist | None:
    """Return the full training of a run's uniform network; None if there is none."""
    known = metadata.uniform
    if known is None or known.architecture is None:
        return None
    return _of(known.architecture, list(metadata.finalists.values()))


def _of(architecture: Mapping[str, Any], entries: Sequence[Finalist]) -> Finalist | None:
    """Return the taught one of an architecture; of several the one that has come furthest."""
    same = [entry for entry in entries if entry.taught and entry.architecture == architecture]
    return max(same, key=lambda entry: (entry.quality is not None, len(entry.qualities)), default=None)


def _as_finalist(record: TrialRecord, recipe: str) -> Finalist:
    # What a stopped candidate had reached is of an earlier rung, and does not compare.
    score = record.final_quality if record.state == "complete" else None
    return Finalist(
        key=record.key,
        trial=record.number,
        architecture=record.architecture.to_dict(),
        costs=record.costs,
        taught=True,
        score=score,
        recipe=recipe,
    )


def recipe_of(training: TrainingConfig, seed: int) -> str:
    """Return a digest of what a full training depends on beside its architecture."""
    return json_digest([seed, training.model_dump(mode="json")], 8)


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else -math.inf
