"""Trial records as read from the journal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas_distill.spaces import Architecture
from nas_distill.utils.errors import RunError, SpaceError, first_line
from nas_distill.utils.files import write_text

if TYPE_CHECKING:
    import optuna
    import pandas as pd


State = Literal[
    "running", "complete", "pruned", "over_budget", "duplicate", "failed", "interrupted", "uniform", "untried"
]
NO_TRIAL = -1
"""Number in the record of a network that was not a candidate of the search."""
RUNG = "rung:"


@dataclass(frozen=True)
class Stop:
    """The stop of a trial at ``rung``, where it had ``quality``; ``reason`` is the rule's clause for users.

    ``dominated_by`` is the number of a trial that costs no more and had ``dominating_quality`` there, more than
    ``margin`` higher; None under rules that compare with no single trial.
    """

    rung: int
    quality: float
    dominated_by: int | None
    dominating_quality: float | None
    margin: float
    reason: str


@dataclass(frozen=True)
class Rung:
    """Report of a trial at a rung.

    ``quality`` (higher is better), optimiser ``step``, ``seconds`` of training since its start (over all resumptions),
    ``share`` of the full length in [0, 1], 0 where it was judged before any training.
    """

    quality: float
    step: int
    seconds: float
    share: float

    @property
    def seconds_left(self) -> float:
        """Seconds that the rest would take at this pace; 0 before any training."""
        return self.seconds * (1.0 - self.share) / self.share if self.share > 0 else 0.0


@dataclass(frozen=True)
class Taken:
    """Trial ``trial`` of an earlier ``run`` (its folder, as it was named), which a warm start has taken over."""

    run: str
    trial: int


@dataclass(frozen=True)
class TrialRecord:
    """One trial of the journal.

    ``number`` is unique; ``key`` names the training and is kept over retries. ``reports`` are by rung. ``params`` are
    the flat values as the sampler knows them. States: ``complete`` (trained to the end), ``pruned`` (stopped, see
    ``stop``), ``over_budget`` (never trained, see ``violations``), ``duplicate`` (never trained, see ``duplicate_of``),
    ``failed`` (see ``cause``), ``interrupted`` (another trial continues it, or will), ``running``. One that was
    ``taken`` from an earlier run is ``complete`` with what that run measured, and was not trained here. Records of
    the states ``uniform`` and ``untried`` are not in the journal: the uniform network and an assembly that were not
    candidates have them, with the number ``NO_TRIAL``.
    """

    number: int
    index: int
    key: str
    state: State
    architecture: Architecture
    origin: str
    costs: dict[str, float]
    reports: dict[int, Rung] = field(default_factory=dict)
    violations: dict[str, float] = field(default_factory=dict)
    stop: Stop | None = None
    cause: str | None = None
    duplicate_of: int | None = None
    retry_of: int | None = None
    values: tuple[float, ...] | None = None
    interrupted: Literal["stopped", "died"] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    taken: Taken | None = None

    @property
    def title(self) -> str:
        """Its name in texts: ``trial 7``, or ``uniform network`` or ``untried candidate`` if it was not a candidate."""
        names = {"uniform": "uniform network", "untried": "untried candidate"}
        return names.get(self.state, f"trial {self.number}")

    @property
    def quality(self) -> float | None:
        """The quality at the highest rung it reached; higher is better; None before the first."""
        return self.reports[max(self.reports)].quality if self.reports else None

    @property
    def final_quality(self) -> float:
        """The quality at the last rung.

        Raises:
            ValueError: the trial is not complete.
        """
        if self.state != "complete" or self.quality is None:
            raise ValueError(f"trial {self.number} is {self.state}: it has no final quality")
        return self.quality

    @property
    def rungs(self) -> dict[int, float]:
        """Quality by rung."""
        return {rung: report.quality for rung, report in self.reports.items()}

    @property
    def seconds(self) -> float:
        """Seconds that this run has spent training it up to its last report; 0 if it was taken from another."""
        if self.taken is not None:
            return 0.0
        return max((report.seconds for report in self.reports.values()), default=0.0)

    @property
    def seconds_saved(self) -> float:
        """Seconds that stopping it saved: the rest of the training at its own pace; 0 unless stopped."""
        if self.state != "pruned" or not self.reports:
            return 0.0
        return self.reports[max(self.reports)].seconds_left

    @property
    def trained(self) -> bool:
        """True if it counts among the trials that were asked for: complete, pruned or failed, and not taken."""
        return self.state in ("complete", "pruned", "failed") and self.taken is None

    @property
    def dominated_by(self) -> int | None:
        """Number of the trial that dominates it, if it was stopped for one."""
        return self.stop.dominated_by if self.stop else None

    @property
    def margin(self) -> float | None:
        """The margin by which the dominating trial had to be better, if it was stopped."""
        return self.stop.margin if self.stop else None


def from_trial(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    """Read one Optuna trial that ``engine/recorder.py`` wrote.

    Raises:
        RunError: the trial lacks what every trial of a run has.
    """
    attrs = trial.user_attrs
    try:
        reports: dict[int, Rung] = {}
        stop: Stop | None = None
        for rung, value in recorded_rungs(attrs).items():
            reports[rung] = Rung(*(_typed(value, name, float) for name in ("quality", "step", "seconds", "share")))
            if value.get("stop"):
                stop = _stop(rung, reports[rung].quality, value["stop"])
        return TrialRecord(
            number=trial.number,
            index=_typed(attrs, "index", int),
            key=_typed(attrs, "key", str),
            state=_state(trial),
            architecture=Architecture.from_json(json.dumps(attrs["architecture"])),
            origin=_typed(attrs, "origin", str),
            costs=_numbers(attrs, "costs"),
            reports=reports,
            violations=_numbers(attrs, "violations"),
            stop=stop,
            cause=_typed(attrs, "cause", str, optional=True),
            duplicate_of=_typed(attrs, "duplicate_of", int, optional=True),
            retry_of=_typed(attrs, "retry_of", int, optional=True),
            values=None if trial.values is None else tuple(trial.values),
            interrupted=attrs.get("interrupted"),
            params=dict(trial.params),
            taken=_taken(attrs),
        )
    except (KeyError, TypeError, ValueError, AttributeError, SpaceError) as error:
        raise RunError(
            f"trial {trial.number} of the journal is not one of nas_distill's ({first_line(error)})."
        ) from error


def _typed(values: Mapping[str, Any], name: str, kind: type, *, optional: bool = False) -> Any:
    """Return a value of a journal, which others may have written; a whole number is a ``float`` too."""
    if optional and values.get(name) is None:
        return None
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError(f"'{name}' is {value!r}")
    return value


def _numbers(attrs: Mapping[str, Any], name: str) -> dict[str, float]:
    values = attrs.get(name, {})
    if not isinstance(values, Mapping):
        raise TypeError(f"'{name}' is {values!r}")
    return {str(key): _typed(values, key, float) for key in values}


def _taken(attrs: Mapping[str, Any]) -> Taken | None:
    found = attrs.get("taken")
    return None if found is None else Taken(_typed(found, "run", str), _typed(found, "trial", int))


def _stop(rung: int, quality: float, values: Mapping[str, Any]) -> Stop:
    return Stop(
        rung=rung,
        quality=quality,
        dominated_by=_typed(values, "dominated_by", int, optional=True),
        dominating_quality=_typed(values, "dominating_quality", float, optional=True),
        margin=_typed(values, "margin", float),
        reason=_typed(values, "reason", str),
    )


def recorded_rungs(attrs: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the reports in a trial's user attributes by rung, rising."""
    found = {int(name.removeprefix(RUNG)): value for name, value in attrs.items() if name.startswith(RUNG)}
    return dict(sorted(found.items()))


def untried(
    key: str, architecture: Architecture, costs: dict[str, float], state: Literal["uniform", "untried"] = "uniform"
) -> TrialRecord:
    """Return the record of the uniform network, or of an assembly, which was not a candidate of the search."""
    return TrialRecord(
        number=NO_TRIAL,
        index=NO_TRIAL,
        key=key,
        state=state,
        architecture=architecture,
        origin=state,
        costs=costs,
    )


def read_records(study: optuna.Study) -> list[TrialRecord]:
    """Return all trials of a study, by number; one that failed and was continued by another counts as interrupted.

    Raises:
        RunError: a trial lacks what every trial of a run has, or trials do not follow from one another.
    """
    records = [from_trial(trial) for trial in study.get_trials(deepcopy=False)]
    check_sequence(records)
    continued = {record.retry_of for record in records}
    return [
        replace(record, state="interrupted") if record.state == "failed" and record.number in continued else record
        for record in records
    ]


def training_key(number: int) -> str:
    """Return the name of the training that trial ``number`` begins."""
    return f"t{number:05d}"


def check_sequence(records: Sequence[TrialRecord]) -> None:
    """Check that trials have the numbers with which they were written; a lost one shifts all that follow.

    Raises:
        RunError: names the first trial that does not follow from those before it.
    """
    index = 0
    for record in records:
        if record.retry_of is None:
            sound = record.key == training_key(record.number) and record.index == index
            index += 1
        else:
            sound = record.retry_of < record.number and (
                (records[record.retry_of].key, records[record.retry_of].index) == (record.key, record.index)
            )
        if record.duplicate_of is not None:
            sound = sound and record.duplicate_of < record.number
            sound = sound and records[record.duplicate_of].architecture == record.architecture
        if not sound:
            raise RunError(
                f"trial {record.number} of the journal (training {record.key}) does not follow from those before it: a "
                "record is missing, repeated or out of place; restore study.journal from a copy."
            )


def to_rows(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Return one flat dict per trial, all with the same keys: the rows of the CSV and of the data frame."""
    costs = sorted({name for record in records for name in record.costs})
    rungs = sorted({rung for record in records for rung in record.reports})
    params = list(dict.fromkeys(name for record in records for name in record.params))
    rows = []
    for record in records:
        row: dict[str, Any] = {
            "trial": record.number,
            "state": record.state,
            "quality": record.quality,
            **{name: record.costs.get(name) for name in costs},
            **{f"quality_at_rung_{rung}": record.rungs.get(rung) for rung in rungs},
            "seconds": record.seconds,
            "dominated_by": record.dominated_by,
            "dominating_quality": record.stop.dominating_quality if record.stop else None,
            "margin": record.margin,
            "violations": json.dumps(record.violations) if record.violations else None,
            "cause": record.cause,
            "duplicate_of": record.duplicate_of,
            "retry_of": record.retry_of,
            "origin": record.origin,
            "taken_from": None if record.taken is None else f"{record.taken.run}:{record.taken.trial}",
            "key": record.key,
            "architecture": record.architecture.hash,
            **{f"param:{name}": record.params.get(name) for name in params},
        }
        rows.append(row)
    return rows


def to_frame(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """Return a data frame with one row per trial, indexed by trial number; columns as in ``to_rows``."""
    import pandas as pd

    rows = to_rows(list(records))
    if not rows:
        return pd.DataFrame({"state": [], "quality": []}, index=pd.Index([], name="trial"))
    return pd.DataFrame(rows).set_index("trial")


def write_csv(records: Iterable[TrialRecord], path: Path) -> None:
    """Write one line per trial, atomically; columns as in ``to_rows``."""
    rows = to_rows(list(records))
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(rows[0]) if rows else ["trial", "state", "quality"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _state(trial: optuna.trial.FrozenTrial) -> State:
    attrs = trial.user_attrs
    if "duplicate_of" in attrs:
        return "duplicate"
    if not trial.state.is_finished():
        return "running"
    if "interrupted" in attrs:
        return "interrupted"
    if attrs.get("violations"):
        return "over_budget"
    named: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return named[trial.state.name]
