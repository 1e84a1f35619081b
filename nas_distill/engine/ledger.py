"""Ledger of proposals: journal trials, with retries attached to their proposal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, KeysView, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from nas_distill.engine.early_stopping import History, Report
from nas_distill.engine.proposals import Proposal
from nas_distill.runs.pareto import RunningFront
from nas_distill.runs.records import Rung, State, Stop, Taken, TrialRecord
from nas_distill.spaces import Architecture

Status = Literal["waiting", "running", "complete", "pruned", "failed", "over_budget", "duplicate"]

COUNTED: tuple[Status, ...] = ("complete", "pruned", "failed")


@dataclass
class Entry:
    """A proposal and its state in the search.

    ``number`` is its latest trial in the journal, ``key`` names its training (both are set when it is written).
    ``waiting``: interrupted, and to be handed out again. ``original``: for a duplicate, the index of the entry with the
    same architecture. ``deaths`` counts how often in a row the whole process died while it was trained, without
    reaching a new rung. ``taken``: the trial of an earlier run that it is, which is not trained here.
    """

    index: int
    proposal: Proposal
    status: Status
    number: int = -1
    key: str = ""
    costs: dict[str, float] = field(default_factory=dict)
    violations: dict[str, float] = field(default_factory=dict)
    reports: dict[int, Rung] = field(default_factory=dict)
    stop: Stop | None = None
    cause: str | None = None
    original: int | None = None
    deaths: int = 0
    taken: Taken | None = None

    @property
    def quality(self) -> float | None:
        """The quality at the highest rung reached; higher is better."""
        return self.reports[max(self.reports)].quality if self.reports else None

    @property
    def seconds(self) -> float:
        """Seconds of training so far; 0 if it was taken from an earlier run."""
        if self.taken is not None:
            return 0.0
        return max((report.seconds for report in self.reports.values()), default=0.0)

    @property
    def seconds_saved(self) -> float:
        """Seconds that stopping it saved, at its own pace; 0 unless it was stopped."""
        if self.status != "pruned" or not self.reports:
            return 0.0
        return self.reports[max(self.reports)].seconds_left


class Ledger:
    """All entries by index, with the lookups that decisions need.

    Once appended, an entry changes only by ``change``, ``report`` and ``renumber``, which update the counts, the front
    and the reports by rung. None of them takes time in proportion to the number of entries.

    Args:
        costs: names of the cost objectives, which with quality make the front.
    """

    def __init__(self, costs: Sequence[str] = ()) -> None:
        self._costs = tuple(costs)
        self._entries: list[Entry] = []
        self._first: dict[str, int] = {}  # architecture -> index of the entry that is not a duplicate
        self._having: dict[Status, dict[int, None]] = defaultdict(dict)  # indices, as an ordered set
        self._origins: Counter[str] = Counter()
        self._histories: dict[int, History] = defaultdict(History)  # by rung
        self._places: dict[tuple[int, int], int] = {}  # (rung, index) -> place in the rung's history
        self._duplicates: dict[int, list[int]] = defaultdict(list)  # original -> duplicates that wait for its end
        # Consecutive proposals of the sampler that were over budget or duplicates; others between them do not count.
        self.unproductive = 0
        self._front: RunningFront[int] = RunningFront([True, *(False for _ in self._costs)])
        self.taken = 0  # entries from earlier runs, all of them complete
        self.seconds_trained = 0.0
        self.seconds_saved = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index]

    @property
    def seen(self) -> KeysView[str]:
        """Hashes of all architectures proposed so far."""
        return self._first.keys()

    @property
    def front(self) -> RunningFront[int]:
        """The completed entries that no other beats in quality and costs: indices, with (quality, *costs)."""
        return self._front

    def append(self, entry: Entry) -> None:
        """Add the next entry, with whatever it has reported."""
        assert entry.index == len(self._entries)
        self._entries.append(entry)
        self._first.setdefault(entry.proposal.architecture.hash, entry.index)
        self._origins[entry.proposal.origin] += 1
        self.taken += entry.taken is not None
        if entry.proposal.origin == "sampler":
            self.unproductive = self.unproductive + 1 if entry.status in ("over_budget", "duplicate") else 0
        if entry.original is not None:
            self._duplicates[entry.original].append(entry.index)
        for rung, report in entry.reports.items():
            self._note(entry, rung, report)
        self.seconds_trained += entry.seconds
        self._enter(entry)

    def change(self, entry: Entry, status: Status) -> None:
        """Give an entry another status."""
        del self._having[entry.status][entry.index]
        entry.status = status
        self._enter(entry)

    def report(self, entry: Entry, rung: int, report: Rung) -> None:
        """Add what an entry has reported at a rung."""
        before = entry.seconds
        entry.reports[rung] = report
        self.seconds_trained += entry.seconds - before
        self._note(entry, rung, report)

    def renumber(self, entry: Entry, number: int) -> None:
        """Give an entry the number of the trial that continues its training."""
        entry.number = number
        for rung in entry.reports:
            self._histories[rung].renumber(self._places[rung, entry.index], number)

    def original(self, architecture_hash: str) -> Entry | None:
        """Return the entry that looks at this architecture itself, if it was proposed before."""
        index = self._first.get(architecture_hash)
        return None if index is None else self._entries[index]

    def take_duplicates(self, entry: Entry) -> list[Entry]:
        """Return the duplicates of an entry that were added since this was last asked."""
        return [self._entries[index] for index in self._duplicates.pop(entry.index, ())]

    def count(self, *statuses: Status) -> int:
        """Return how many entries have one of ``statuses``."""
        return sum(len(self._having[status]) for status in statuses)

    @property
    def trained(self) -> int:
        """Number of entries that were trained here and have ended: complete, stopped or failed."""
        return self.count(*COUNTED) - self.taken

    def having(self, *statuses: Status) -> list[Entry]:
        """Return the entries with one of ``statuses``, by index."""
        return [self._entries[index] for index in sorted(chain(*(self._having[status] for status in statuses)))]

    def from_origin(self, origin: str) -> int:
        """Return how many proposals have this origin."""
        return self._origins[origin]

    def scored(self) -> list[tuple[Architecture, float]]:
        """Return the candidates that were trained to their last rung, with their quality; by index."""
        return [
            (entry.proposal.architecture, entry.quality)
            for entry in self.having("complete")
            if entry.quality is not None
        ]

    def reports_at(self, rung: int) -> History:
        """Return what all entries have reported at a rung, whatever became of them."""
        return self._histories[rung]

    def run_of(self, *statuses: Status) -> int:
        """Return how many of the latest entries in a row have one of ``statuses``."""
        length = 0
        for entry in reversed(self._entries):
            if entry.status not in statuses:
                break
            length += 1
        return length

    def _note(self, entry: Entry, rung: int, report: Rung) -> None:
        self._places[rung, entry.index] = len(self._histories[rung])
        self._histories[rung].append(Report(entry.number, entry.costs, report.quality))

    def _enter(self, entry: Entry) -> None:
        self._having[entry.status][entry.index] = None
        self.seconds_saved += entry.seconds_saved
        if entry.status == "complete" and entry.quality is not None:
            self._front.add(entry.index, [entry.quality, *(entry.costs[name] for name in self._costs)])


def chains(records: Iterable[TrialRecord]) -> list[list[TrialRecord]]:
    """Group trials by proposal, each group by number: the attempts at one training."""
    found: dict[int, list[TrialRecord]] = {}
    for record in records:
        found.setdefault(record.index, []).append(record)
    return [found[index] for index in sorted(found)]


def entry_of(attempts: list[TrialRecord], proposal: Proposal, original: int | None) -> Entry:
    """Fold the attempts at one proposal into its entry."""
    last = attempts[-1]
    deaths = 0
    for record in reversed(attempts):
        if record.interrupted != "died" or len(record.reports) != len(last.reports):
            break
        deaths += 1
    return Entry(
        index=last.index,
        number=last.number,
        key=last.key,
        proposal=proposal,
        status=_status(last.state),
        costs=last.costs,
        violations=last.violations,
        reports=dict(last.reports),
        stop=last.stop,
        cause=last.cause,
        original=original,
        deaths=deaths,
        taken=last.taken,
    )


def _status(state: State) -> Status:
    assert state != "uniform"  # these two are not in the journal
    assert state != "untried"
    return "waiting" if state == "interrupted" else state
