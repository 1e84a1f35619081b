"""What is known of each proposal: the journal's trials, with the retries of one proposal folded into one entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from nas_distill.engine.dominance import Report
from nas_distill.engine.proposals import Proposal
from nas_distill.run.records import Rung, State, Stop, TrialRecord
from nas_distill.space import Architecture

Status = Literal["waiting", "running", "complete", "pruned", "failed", "over_budget", "duplicate"]

COUNTED: tuple[Status, ...] = ("complete", "pruned", "failed")


@dataclass
class Entry:
    """A proposal and what became of it.

    ``number`` is its latest trial in the journal, ``key`` names its training (both are set when it is written down).
    ``waiting``: interrupted, and to be handed out again. ``original``: for a duplicate, the index of the entry with the
    same architecture. ``deaths`` counts how often in a row the whole process died while it was trained, with no rung
    gained.
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

    @property
    def quality(self) -> float | None:
        """The quality at the highest rung reached; higher is better."""
        return self.reports[max(self.reports)].quality if self.reports else None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return max((report.seconds for report in self.reports.values()), default=0.0)

    @property
    def seconds_saved(self) -> float:
        """Seconds that stopping it saved, at its own pace; 0 unless it was stopped."""
        if self.status != "pruned" or not self.reports:
            return 0.0
        return self.reports[max(self.reports)].seconds_left


class Ledger:
    """All entries, by index, and the lookups that deciding needs."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._first: dict[str, int] = {}  # architecture -> index of the entry that looks at it itself

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index]

    @property
    def seen(self) -> set[str]:
        """Hashes of all architectures proposed so far."""
        return set(self._first)

    def append(self, entry: Entry) -> None:
        """Add the next entry."""
        assert entry.index == len(self._entries)
        self._entries.append(entry)
        self._first.setdefault(entry.proposal.architecture.hash, entry.index)

    def original(self, architecture_hash: str) -> Entry | None:
        """Return the entry that looks at this architecture itself, if it was proposed before."""
        index = self._first.get(architecture_hash)
        return None if index is None else self._entries[index]

    def count(self, *statuses: Status) -> int:
        """Return how many entries have one of ``statuses``."""
        return sum(entry.status in statuses for entry in self._entries)

    def having(self, *statuses: Status) -> list[Entry]:
        """Return the entries with one of ``statuses``, by index."""
        return [entry for entry in self._entries if entry.status in statuses]

    def scored(self) -> list[tuple[Architecture, float]]:
        """Return the candidates that were trained to their last rung, with their quality; by index."""
        return [
            (entry.proposal.architecture, entry.quality)
            for entry in self.having("complete")
            if entry.quality is not None
        ]

    def reports_at(self, rung: int, *, but: int) -> list[Report]:
        """Return what all entries but one have reported at a rung, whatever became of them."""
        return [
            Report(entry.number, entry.costs, entry.reports[rung].quality)
            for entry in self._entries
            if entry.index != but and rung in entry.reports
        ]

    def run_of(self, *statuses: Status) -> int:
        """Return how many of the latest entries in a row have one of ``statuses``."""
        length = 0
        for entry in reversed(self._entries):
            if entry.status not in statuses:
                break
            length += 1
        return length


def chains(records: Iterable[TrialRecord]) -> list[list[TrialRecord]]:
    """Group trials by proposal, each group by number: the attempts at one training."""
    found: dict[int, list[TrialRecord]] = {}
    for record in records:
        found.setdefault(record.index, []).append(record)
    return [found[index] for index in sorted(found)]


def entry_of(chain: list[TrialRecord], proposal: Proposal, original: int | None) -> Entry:
    """Fold the attempts at one proposal into its entry."""
    last = chain[-1]
    deaths = 0
    for record in reversed(chain):
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
    )


def _status(state: State) -> Status:
    return "waiting" if state == "interrupted" else state
