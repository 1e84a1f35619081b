"""Searches at scale on a virtual clock: many workers and trials, stragglers, dying workers, a killed driver.

The real controller, journal and relay; only the workers are simulated (virtual.py). What is measured is processor time
of the driver; the journal's wait for the disk is left out (bookkeeping.py has it).

    python benchmarks/simulate.py [--trials 1000] [--large 10000] [--workers 1 8 64 1000] [--at 100 1000 5000 10000]
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import optuna
from bookkeeping import BUDGET, costs, timed
from common import PAGES, parser, publish, table
from virtual import SPACE, KilledError, Watched, Workers

from nas_distill.config import SamplerConfig, ScoreConfig, SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine import proposals
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.controller import Controller
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.proposals import KEPT
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import open_journal, read_study
from nas_distill.runs.records import read_records
from nas_distill.spaces import SearchSpace

RUNGS = (1 / 9, 1 / 3, 1.0)
WHOLE = "tpe, all trials"
BOUNDED = 16  # workers of the searches that compare the two
SUGGESTIONS = 20  # measured per cell
REACHED = (0.9, 0.95, 0.99)  # shares of the best hypervolume of all searches


@dataclass
class Suggestions:
    """Processor time of one ``Controller.next`` after ``trials`` trained ones, in ms; ``optuna_ms`` is Optuna's part.

    ``opening_seconds``: of the journal of that many trials, read and rebuilt. ``measured`` suggestions.
    """

    sampler: str
    trials: int
    proposals: int
    measured: int
    median_ms: float
    largest_ms: float
    optuna_ms: float
    opening_seconds: float


@dataclass
class Search:
    """A simulated search. ``trace``: (virtual hours, hypervolume) after each change. ``wrong``: what was lost."""

    sampler: str
    workers: int
    trials: int
    seed: int
    complete: int
    stopped: int
    failed: int
    deaths: int
    resumed: int
    hours: float
    busy: float
    driver_seconds: float
    hypervolume: float
    wrong: list[str]
    trace: list[tuple[float, float]] = field(repr=False)

    def hours_to(self, value: float) -> float | None:
        """Return the virtual hours until the hypervolume reached a value; None if it did not."""
        return next((hours for hours, reached in self.trace if reached >= value), None)


@contextmanager
def controlled(
    path: Path, sampler: str, trials: int, clock: Any = time.monotonic, seed: int = 0
) -> Iterator[Controller]:
    """Open a run folder's journal with a controller, which continues what the journal holds.

    ``sampler`` may be ``WHOLE``, which is TPE that reads all trials.
    """
    search = SearchConfig(trials=trials, seeds=6, sampler=SamplerConfig(name=sampler.partition(",")[0]))
    objectives = Objectives.from_config(search)
    kept = patch.object(proposals, "KEPT", sys.maxsize if sampler == WHOLE else KEPT)
    with kept, RunFolder(path).lock() as folder:
        yield Controller(
            open_journal(folder, directions=objectives.directions, names=objectives.names),
            folder,
            space=SearchSpace.from_dict(SPACE, builder="builtins:dict"),
            pricing=Pricing(costs, Budget.parse(BUDGET)),
            search=search,
            score=ScoreConfig(rungs=RUNGS),
            seed=seed,
            margin=0.02,
            clock=clock,
        )


@contextmanager
def without_disk() -> Iterator[None]:
    """Leave out the wait for the disk: a simulated death loses nothing that was written."""
    with patch.object(os, "fsync", lambda descriptor: None):
        yield


def simulate(sampler: str, workers: int, trials: int, scratch: Path, seed: int = 0) -> Search:
    """Run one search to its end; its driver is killed once, when half of the trials have ended."""
    pool = Workers(workers, seed=seed)
    path = scratch / f"{sampler}-{workers}-{trials}-{seed}"
    trace: list[tuple[float, float]] = []
    sessions: list[Watched] = []
    began = time.process_time()
    for killed in (True, False):
        with controlled(path, sampler, trials, pool.clock, seed) as controller:
            sessions.append(Watched(controller))
            half = trials // 2 if killed else trials + 1

            def each(controller: Controller = controller, half: int = half) -> None:
                progress = controller.progress()
                if not trace or progress.hypervolume != trace[-1][1]:
                    trace.append((pool.now / 3600, progress.hypervolume))
                if progress.done >= half and progress.running:  # in the middle of a training
                    raise KilledError

            try:
                pool.run(sessions[-1], each)
                controller.conclude()
            except KilledError:
                pass
        if killed:
            with RunFolder(path).journal.open("ab") as journal:
                journal.write(b'{"op_code": 8, "trial_i')  # half a line, as a death in the middle of a write leaves
    seconds = time.process_time() - began
    records = read_records(read_study(RunFolder(path)))
    states = Counter(record.state for record in records)
    return Search(
        sampler=sampler,
        workers=workers,
        trials=trials,
        seed=seed,
        complete=states["complete"],
        stopped=states["pruned"],
        failed=states["failed"],
        deaths=pool.died,
        resumed=states["interrupted"],
        hours=pool.now / 3600,
        busy=pool.busy / (workers * pool.now),
        driver_seconds=seconds,
        hypervolume=trace[-1][1],
        wrong=losses(records, sessions, pool, trials),
        trace=trace,
    )


def losses(records: Sequence[Any], sessions: Sequence[Watched], pool: Workers, trials: int) -> list[str]:
    """Return sentences on whatever was lost or done twice; none where every training ended in exactly one state."""
    found = []
    trained = [record for record in records if record.trained]
    keys = [record.key for record in trained]
    if len(trained) != trials or len(set(keys)) != trials:
        found.append(f"{len(trained)} trials of {trials} ended, {len(set(keys))} of them different")
    if len({record.architecture.hash for record in trained}) != len(trained):
        found.append("an architecture was trained twice")
    if any(record.state == "running" for record in records):
        found.append("a trial is still said to run")
    handed_out = {key for session in sessions for key in session.handed_out}
    if handed_out != set(keys):
        found.append(f"{len(handed_out ^ set(keys))} trainings were handed out or recorded, not both")
    ended = sum((session.finished for session in sessions), Counter())
    if any(ended[key] != 1 for key in keys):
        found.append("a training was not finished exactly once")
    first, second = sessions
    if set(first.handed_out) - set(first.finished) - set(second.handed_out):
        found.append("a training in flight when the driver was killed was not handed out again")
    kept = {(record.key, rung): report.quality for record in trained for rung, report in record.reports.items()}
    if kept != pool.answered:
        found.append("a reported quality is missing in the journal, or another than was reported")
    causes = {record.cause for record in trained if record.state == "failed"}
    if causes - {"worker died (simulated), 2 times"}:
        found.append(f"trials failed for other causes: {causes}")
    return found


def suggestions(samplers: Sequence[str], at: Sequence[int], limit: float, scratch: Path) -> Iterator[Suggestions]:
    """Measure suggestions after so many trials of one search by random, of which each cell continues a copy.

    A cell ends after ``limit`` seconds of the processor.
    """
    path, pool = scratch / "grown", Workers(64)
    for trials in sorted(at):
        with controlled(path, "random", trials, pool.clock) as controller:
            pool.run(controller, lambda: None)
        for sampler in samplers:
            copy = shutil.copytree(path, scratch / "copy")
            yield _cell(copy, sampler, trials, limit)
            shutil.rmtree(copy)


def _cell(path: Path, sampler: str, trials: int, limit: float) -> Suggestions:
    spent: list[float] = []
    parts: list[float] = []
    optunas = [0.0]
    with ExitStack() as stack:
        stack.enter_context(timed(optuna.Study, ("ask", "tell", "add_trial"), optunas))
        stack.enter_context(timed(optuna.Trial, ("suggest_int", "suggest_categorical"), optunas))
        began = time.process_time()
        controller = stack.enter_context(controlled(path, sampler, trials + SUGGESTIONS))
        opening, proposed = time.process_time() - began, len(controller._ledger)
        while len(spent) < SUGGESTIONS and sum(spent) < limit:
            before, began = optunas[0], time.process_time()
            if controller.next() is None:
                break
            spent.append(time.process_time() - began)
            parts.append(optunas[0] - before)
    return Suggestions(
        sampler,
        trials,
        proposed,
        len(spent),
        1e3 * statistics.median(spent),
        1e3 * max(spent),
        1e3 * statistics.median(parts),
        opening,
    )


def main() -> None:
    options = _options()
    cells: list[Suggestions] = []
    searches: list[Search] = []
    judged: list[Search] = []
    with without_disk(), TemporaryDirectory() as scratch:
        for cell in suggestions((*options.samplers, WHOLE), options.at, options.limit, Path(scratch)):
            cells.append(cell)
            print(cell, flush=True)
        for trials, samplers, workers in (
            (options.trials, options.samplers, options.workers),
            (options.large, ("random",), [count for count in options.workers if count >= 64]),
        ):
            for sampler in samplers:
                for count in workers:
                    searches.append(simulate(sampler, count, trials, Path(scratch)))
                    print(searches[-1], flush=True)
        for seed in range(options.seeds):
            for sampler in ("tpe", WHOLE):
                judged.append(simulate(sampler, BOUNDED, options.trials, Path(scratch) / "judged", seed))
                print(judged[-1], flush=True)
    if not options.quick:
        _write(cells, [*searches, *judged], (options.output or PAGES / "simulate.md").with_suffix(".csv"))
    publish("simulate", "Searches at scale", _parts(cells, searches, judged, options), options)
    if any(search.wrong for search in (*searches, *judged)):
        raise SystemExit("something was lost; see the table.")


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    made.add_argument("--trials", type=int, default=1000, help="of the searches that are compared")
    made.add_argument("--large", type=int, default=10_000, help="of further searches by random")
    made.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 1000])
    made.add_argument("--at", type=int, nargs="+", default=[100, 1000, 5000, 10_000], help="trials before a suggestion")
    made.add_argument("--seeds", type=int, default=2, help="of the searches that compare the bound with all trials")
    made.add_argument("--limit", type=float, default=120.0, help="seconds of the processor per cell of suggestions")
    options = made.parse_args()
    if options.quick:
        options.trials, options.large, options.workers, options.at, options.seeds = 40, 60, [1, 64], [30], 1
    return options


def _write(cells: Sequence[Suggestions], searches: Sequence[Search], path: Path) -> None:
    """Write one row per cell, per search, and per hour of virtual time on a grid, told apart by ``kind``."""
    rows: list[dict[str, Any]] = [{"kind": "suggestion", **vars(cell)} for cell in cells]
    for search in searches:
        plain = {name: value for name, value in vars(search).items() if name not in ("trace", "wrong")}
        rows.append({"kind": "search", **plain, "lost": len(search.wrong)})
        for place in range(1, 21):
            hours = search.hours * place / 20
            reached = max((value for at, value in search.trace if at <= hours), default=0.0)
            named = {name: plain[name] for name in ("sampler", "workers", "trials", "seed")}
            rows.append({"kind": "trace", **named, "hours": hours, "hypervolume": reached})
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)


def _short(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _parts(
    cells: Sequence[Suggestions], searches: Sequence[Search], judged: Sequence[Search], options: argparse.Namespace
) -> list[str]:
    return [
        "Rows of all tables: [simulate.csv](simulate.csv).",
        "## The time of a suggestion",
        f"""Processor time of one call of `Controller.next`, which proposes until something can be trained: proposals
over budget and repeats (about as many as trainings by `random`) are in it. {SUGGESTIONS} calls per row, on copies of
one search by `random`, continued by the sampler; a row ends after {options.limit:g} s. *Optuna's part* is the time
within its study and its sampler. `tpe` reads the {KEPT:,} latest finished proposals and the front; *{WHOLE}* is the
same with all of them, as Optuna's TPE does by itself. *Opening* is a resume: the journal is read and checked, and the
sampler gets its proposals back.""",
        table(
            ["sampler", "trials before", "proposals before", "calls", "median", "largest", "Optuna's part", "opening"],
            [
                [
                    cell.sampler,
                    f"{cell.trials:,}",
                    f"{cell.proposals:,}",
                    cell.measured,
                    f"**{cell.median_ms:.1f} ms**",
                    f"{cell.largest_ms:.1f} ms",
                    f"{cell.optuna_ms:.1f} ms",
                    f"{cell.opening_seconds:.1f} s",
                ]
                for cell in cells
            ],
        ),
        _longest(cells),
        f"Whether that costs quality: hypervolume after {options.trials:,} trials on {BOUNDED} workers, by seed.",
        _judged_table(judged),
        "## Many workers, of which some die",
        """Trainings last minutes, by the cost of the architecture times a log-normal factor (standard deviation 0.8 of
the logarithm: one in twenty takes 2.7 times its mean or longer). One attempt in twenty would meet the death of its
worker at some moment of a whole training; most are stopped before. A dead worker is replaced after 20 s, and its
training continues from its last rung once before it counts as failed. Each driver is killed once, when half of its
trials have ended, in the middle of a line of the journal, and resumed at once. *Lost* counts the rules that a search
broke: every training that was handed out ends in exactly one state, none is trained twice, those in flight at the kill
are handed out again, every reported quality is in the journal.""",
        _searches_table(searches),
        "## Hypervolume and time",
        f"""Virtual hours until a search of {options.trials:,} trials reached a share of the largest hypervolume of all
searches here. Stragglers and deaths cost what *busy* lacks to 100 %; the sampler's loss by many workers is that it
proposes before it has seen results.""",
        _hours_table(searches),
    ]


def _longest(cells: Sequence[Suggestions]) -> str:
    trials = max(cell.trials for cell in cells)
    found = [f"{cell.median_ms:.0f} ms by *{cell.sampler}*" for cell in cells if cell.trials == trials]
    return f"After {trials:,} trials (aim: at most 100 ms): {', '.join(found)}."


def _judged_table(judged: Sequence[Search]) -> str:
    names = list(dict.fromkeys(search.sampler for search in judged))
    found = {name: [search for search in judged if search.sampler == name] for name in names}
    return table(
        ["sampler", *(f"seed {search.seed}" for search in found[names[0]]), "mean", "driver, per trial"],
        [
            [
                name,
                *(f"{search.hypervolume:.4f}" for search in found[name]),
                f"{statistics.mean(search.hypervolume for search in found[name]):.4f}",
                f"{1e3 * statistics.mean(search.driver_seconds / search.trials for search in found[name]):.1f} ms",
            ]
            for name in names
        ],
    )


def _searches_table(searches: Sequence[Search]) -> str:
    return table(
        [
            *("sampler", "workers", "trials", "complete", "stopped", "failed", "deaths", "resumed", "lost", "hours"),
            *("busy", "driver, per trial"),
        ],
        [
            [
                search.sampler,
                f"{search.workers:,}",
                f"{search.trials:,}",
                *(f"{count:,}" for count in (search.complete, search.stopped, search.failed, search.deaths)),
                f"{search.resumed:,}",
                f"**{len(search.wrong)}**" + "".join(f"; {sentence}" for sentence in search.wrong),
                f"{search.hours:,.1f}",
                f"{search.busy:.0%}",
                f"{1e3 * search.driver_seconds / search.trials:.1f} ms",
            ]
            for search in searches
        ],
    )


def _hours_table(searches: Sequence[Search]) -> str:
    best = max(search.hypervolume for search in searches)

    def hours(search: Search, share: float) -> str:
        found = search.hours_to(share * best)
        return "not reached" if found is None else f"{found:,.2f} h"

    return table(
        ["sampler", "workers", "trials", *(f"{share:.0%}" for share in REACHED), "hypervolume at the end"],
        [
            [
                search.sampler,
                f"{search.workers:,}",
                f"{search.trials:,}",
                *(hours(search, share) for share in REACHED),
                f"{search.hypervolume:.4f}",
            ]
            for search in searches
        ],
    )


if __name__ == "__main__":
    main()
