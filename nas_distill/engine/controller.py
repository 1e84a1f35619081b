"""Controller of a search: takes proposals, computes their costs, hands out trainings, stops candidates, and ends."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from nas_distill.config import ScoreConfig, SearchConfig
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.early_stopping import Rule
from nas_distill.engine.endings import give_up, nothing_new, require_one
from nas_distill.engine.feasible import FeasibleSet
from nas_distill.engine.first_candidates import ENUMERATED, first_candidates, note_decisions, reference_costs
from nas_distill.engine.ledger import COUNTED, Entry
from nas_distill.engine.objectives import Objectives, make_rule
from nas_distill.engine.progress import Event, EventKind, Progress, snapshot
from nas_distill.engine.proposals import Assembler, Proposal, Proposals
from nas_distill.engine.recorder import TrialRecorder, end_in_flight, rebuild
from nas_distill.engine.samplers import find_sampler
from nas_distill.engine.warm_start import EARLIER, candidates_of, taken_entries
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import Journal
from nas_distill.runs.records import Rung, Stop
from nas_distill.spaces import SearchSpace
from nas_distill.utils.errors import BuildError, RunError, first_line
from nas_distill.utils.seeds import derive

REPEATS = 20  # proposals of the sampler in a row with nothing to train, before unseen architectures are sampled
SAMPLER_TURN = 5  # from then on every so many proposals are the sampler's, until one of its own is trained
PATIENCE = 2000  # proposals in a row with nothing to train before the search gives up; smaller spaces are enumerated
DEATHS = 5  # times in a row that the whole process may die on one candidate without reaching a new rung
DRAWS = 20_000  # random samples in search of an unseen architecture


class Controller:
    """Work source of a search: hands out candidates and decides at each rung whether they continue.

    Used from one thread, except for ``stop``.
    ``pricing`` must cover the objectives and the limits of its budget; an architecture that it cannot price is a failed
    candidate. ``margin`` replaces the search file's pruning margin, ``rule`` its rule, and ``reference`` (cost -> the
    reference point of the hypervolume) the budget's limits. ``assembler`` proposes before the first candidates and the
    sampler. ``on_event`` is called after each event is in the journal. ``paths`` are folders in which the module of a
    user's own sampler is searched for.

    ``trials`` of ``search`` counts trained candidates: complete, stopped and failed. Candidates over budget, repeated,
    interrupted and taken from earlier runs do not count. The journal of an earlier session is continued.

    Raises:
        ConfigError: the sampler does not exist, or one of its options is invalid.
        RunError: the journal cannot be read or written.
    """

    def __init__(
        self,
        journal: Journal,
        folder: RunFolder,
        *,
        space: SearchSpace,
        pricing: Pricing,
        search: SearchConfig,
        score: ScoreConfig,
        seed: int,
        objectives: Objectives | None = None,
        rule: Rule | None = None,
        margin: float | tuple[float, ...] | None = None,
        reference: Mapping[str, float] | None = None,
        assembler: Assembler | None = None,
        on_event: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience: int = PATIENCE,
        paths: Sequence[Path] = (),
    ) -> None:
        self._journal = journal
        self._folder = folder
        self._pricing = pricing
        self._budget = budget = pricing.budget
        self._search = search
        self._score = score
        self._seed = seed
        self._objectives = objectives or Objectives.from_config(search)
        self._rule = rule or make_rule(search.pruning, self._objectives, margin)
        self._assembler = assembler
        self._on_event = on_event
        self._clock = clock
        self._patience = patience
        self._began = clock()
        self._stopping = False
        self._end_reason: str | None = None
        self._in_flight: dict[str, Entry] = {}
        self._size = space.size()
        self._feasible = FeasibleSet(space, pricing)
        self._proposals = Proposals(
            space,
            objectives=self._objectives,
            pricing=pricing,
            sampler=find_sampler(search.sampler, paths=paths),
            seed=seed,
            trials=search.trials,
        )
        end_in_flight(journal, self._objectives, len(score.rungs) - 1)
        self._ledger = rebuild(journal, self._proposals, self._objectives, budget)
        self._recorder = TrialRecorder(journal, self._proposals, self._ledger, self._objectives, budget)
        self._done_before = self._ledger.trained
        self._seeds = first_candidates(journal, space, pricing, search=search, by=self._objectives.costs[0], seed=seed)
        self._seeds += candidates_of(journal.metadata.warm_start, among=self._seeds)
        self._reference = reference_costs(journal, reference or {}, pricing, costs=self._objectives.costs)
        note_decisions(journal, self._objectives, budget, self._rule)
        self._take_earlier()
        for entry in self._ledger.having(*COUNTED):
            self._drop_checkpoint(entry)  # of those that ended just before their process died

    # Interface for backends.

    @property
    def stopping(self) -> bool:
        """True once ``stop`` was called or the time limit is reached: what is in flight is to end as interrupted."""
        return self._stopping or self._time_is_up()

    def stop(self) -> None:
        """Ask the search to stop; safe from a signal handler. Resuming the run continues what was in flight."""
        self._stopping = True

    def next(self) -> Work | None:
        """Return the next candidate to train; None when there will be no more.

        Raises:
            BudgetError: nothing that was proposed fits the budget; names the limit that binds.
            RunError: candidate after candidate failed and none ever succeeded, or the journal cannot be written.
        """
        while self._end_reason is None:
            reason = self._reason_to_end()
            if reason is not None:
                self._end(reason)
                break
            waiting = self._ledger.having("waiting")
            work = self._resume_entry(waiting[0]) if waiting else self._evaluate_next()
            if work is not None:
                return work
        return None

    def report(self, key: str, result: RungResult) -> bool:
        """Record the result of a candidate at a rung and return whether it continues.

        A (key, rung) that was reported before gets its first answer, and its first value is kept. A quality that is
        not finite ends the candidate as failed.
        """
        entry = self._in_flight[key]
        if entry.cause is not None or entry.stop is not None:
            return False
        if result.rung in entry.reports:
            return True
        if not math.isfinite(result.quality):
            self._recorder.fault(entry, f"its quality was {result.quality} at rung {result.rung} (step {result.step})")
            return False
        stop = self._judge(entry, result)
        report = Rung(result.quality, result.step, result.seconds, self._score.rungs[result.rung])
        self._recorder.report(entry, result.rung, report, stop)
        self._emit("rung", entry, f"quality {result.quality:.4f} at rung {result.rung}")
        return stop is None

    def finish(self, key: str, outcome: Outcome) -> None:
        """Record how a candidate's training ended.

        Decisions at its reports take precedence: a stopped or completed candidate stays so, however the training
        ended afterwards.
        """
        entry = self._in_flight.pop(key)
        if entry.cause is None and entry.stop is None and self._last_rung not in entry.reports:
            if outcome.kind == "interrupted":
                self._recorder.interrupt(entry)
                self._emit("interrupted", entry, "continues when the search is resumed")
                return
            self._recorder.fault(entry, outcome.cause or f"its training ended as {outcome.kind} before its last rung")
        self._recorder.end(entry)
        self._drop_checkpoint(entry)
        self._emit_end(entry)

    # Interface for the other phases of a search.

    def conclude(self) -> Progress:
        """Note in the journal why there were no more candidates, and return the last snapshot.

        Raises:
            RunError: no candidate was trained to its end; gives the first cause.
        """
        if not self._stopping:
            if self._end_reason is None and self._time_is_up():
                self._end(self._time_limit_reached)
            if self._end_reason is not None:
                self._journal.note(end_reason=self._end_reason)
            if self._end_reason == self._time_limit_reached and not self._ledger.count("complete"):
                raise RunError(
                    f"{self._end_reason} before any candidate was trained to its end; resume with a longer "
                    "search.time_limit_minutes (--resume)."
                )
            require_one(self._ledger, self._end_reason)
        return self.progress()

    def progress(self) -> Progress:
        """Return a snapshot of the search."""
        below = 0
        if any(limit.low is not None for limit in self._budget.limits.values()):
            below = sum(self._budget.below(entry.costs) for entry in self._ledger.having("over_budget"))
        return snapshot(
            self._ledger,
            below=below,
            requested=self._search.trials,
            costs=self._objectives.costs,
            reference=self._reference,
            elapsed_seconds=self._clock() - self._began,
            done_before=self._done_before,
            stopping=self._stopping,
            end_reason=self._end_reason,
        )

    # Deciding.

    @property
    def _last_rung(self) -> int:
        return len(self._score.rungs) - 1

    def _judge(self, entry: Entry, result: RungResult) -> Stop | None:
        if result.rung >= self._last_rung:
            return None  # it ends by itself
        history = self._ledger.reports_at(result.rung)  # its own is not among them yet
        verdict = self._rule.judge(result.rung, result.quality, entry.costs, history)
        if not verdict.stop:
            return None
        return Stop(
            rung=result.rung,
            quality=result.quality,
            dominated_by=verdict.dominated_by,
            dominating_quality=verdict.dominating_quality,
            margin=verdict.margin,
            reason=verdict.reason,
        )

    def _reason_to_end(self) -> str | None:
        ledger = self._ledger
        if self._stopping:
            return "the search was asked to stop"
        if ledger.trained + ledger.count("running") >= self._search.trials:
            return f"all {self._search.trials} trials are done or under way"
        if self._time_is_up():
            return self._time_limit_reached
        give_up(ledger, after=max(REPEATS, len(self._seeds) + 10))
        if ledger.count("waiting"):
            return None
        if ledger.unproductive:
            # Larger spaces only once it is clear that little of them fits.
            self._feasible.enumerate(ENUMERATED if ledger.unproductive < REPEATS else PATIENCE)
        return nothing_new(ledger, self._size, self._budget, self._patience, self._feasible)

    def _time_is_up(self) -> bool:
        limit = self._search.time_limit_minutes
        return limit is not None and self._clock() - self._began >= 60 * limit

    @property
    def _time_limit_reached(self) -> str:
        return f"the time limit of {self._search.time_limit_minutes or 0:g} minutes is reached"

    def _resume_entry(self, entry: Entry) -> Work | None:
        """Hand out an interrupted candidate again, unless the process has died on it too often."""
        self._ledger.change(entry, "failed" if entry.deaths >= DEATHS else "running")
        if entry.deaths >= DEATHS:
            entry.cause = f"the search died {entry.deaths} times in a row while it was being trained"
        self._recorder.begin_again(entry)
        return self._launch(entry)

    def _evaluate_next(self) -> Work | None:
        """Evaluate the costs of one new proposal; None if it is not to be trained, or there is none."""
        proposal = self._propose()
        if proposal is None:
            assembler = self._assembler
            self._end(
                f"there are no more {assembler.origin} candidates within the budget"
                if assembler is not None and assembler.exclusive
                else f"no unseen architecture was found in {DRAWS} random samples of the space"
            )
            return None
        entry = Entry(index=len(self._ledger), proposal=proposal, status="running")
        original = self._ledger.original(proposal.architecture.hash)
        if original is None:
            self._price_entry(entry)
        else:
            entry.status, entry.original = "duplicate", original.index
            entry.costs, entry.violations = dict(original.costs), dict(original.violations)
        self._recorder.begin(entry)
        return self._launch(entry)

    def _propose(self) -> Proposal | None:
        if self._assembler is not None:
            assembled = self._assembler.propose(self._ledger.scored(), self._ledger.seen)
            if assembled is not None:
                return self._proposals.insert(assembled, self._assembler.origin)
            if self._assembler.exclusive:
                return None
        inserted = self._ledger.from_origin("first_candidate")
        if inserted < len(self._seeds):
            return self._proposals.insert(self._seeds[inserted], "first_candidate")
        # The sampler has run out of new candidates, or has not learned yet: sample unseen ones, with some turns of its.
        if self._ledger.unproductive >= REPEATS and len(self._ledger) % SAMPLER_TURN:
            among = self._feasible.left(self._ledger.seen) if self._feasible.found else None
            architecture = self._proposals.unseen(self._ledger.seen, DRAWS, among)
            return None if architecture is None else self._proposals.insert(architecture, "random")
        return self._proposals.ask()

    def _take_earlier(self) -> None:
        """Record the trials of earlier runs that the journal notes and that are not recorded yet, without training."""
        recorded = self._ledger.from_origin(EARLIER)
        for entry in taken_entries(self._journal.metadata.warm_start, self._proposals, after=recorded):
            entry.index = len(self._ledger)
            self._recorder.begin(entry)

    def _price_entry(self, entry: Entry) -> None:
        try:
            entry.costs = self._pricing(entry.proposal.architecture)
        except BuildError as error:
            entry.cause = first_line(error)
            entry.status = "failed"
            return
        entry.violations = self._budget.violations(entry.costs)
        if entry.violations:
            entry.status = "over_budget"

    def _launch(self, entry: Entry) -> Work | None:
        if entry.status != "running":
            self._emit_end(entry)
            return None
        self._in_flight[entry.key] = entry
        self._emit("started", entry)
        return Work(
            key=entry.key,
            architecture=entry.proposal.architecture,
            training=self._score.training,
            rungs=self._score.rungs,
            # The same for all: common random numbers make scores comparable.
            seed=derive(self._seed, "training"),
            checkpoint=self._folder.checkpoint(entry.key),
        )

    def _drop_checkpoint(self, entry: Entry) -> None:
        shutil.rmtree(self._folder.checkpoint(entry.key), ignore_errors=True)

    # Events.

    def _end(self, reason: str) -> None:
        self._end_reason = reason
        self._emit("ended", None, reason)

    def _emit_end(self, entry: Entry) -> None:
        kind = cast(EventKind, entry.status)
        self._emit(kind, entry, entry.cause or (entry.stop.reason if entry.stop else ""))

    def _emit(self, kind: EventKind, entry: Entry | None, text: str = "") -> None:
        if self._on_event is not None:
            number, key = (None, None) if entry is None else (entry.number, entry.key)
            self._on_event(Event(kind, number, key, text))
