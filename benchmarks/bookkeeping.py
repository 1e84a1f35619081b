"""The cost of a trial's bookkeeping as a search grows: proposals, costs, journal and decisions, without any training.

Searches whose trainings end at once, in one process. Processor time is split into that of the sampler (Optuna's
samplers and their study in memory) and the rest, which is the package's own. The wait for the disk (``fsync`` of each
journal line) is wall-clock time, and apart.

    python benchmarks/bookkeeping.py [--trials 500 2000 5000] [--samplers random tpe]
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import PAGES, parser, publish, table

from nas_distill.config import SamplerConfig, ScoreConfig, SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.controller import Controller
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.progress import Event
from nas_distill.engine.proposals import Proposals
from nas_distill.engine.work import RungResult, Work
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import open_journal
from nas_distill.spaces import Architecture, SearchSpace

SPACE = {
    "width": {"int": [8, 256], "step": 8},
    "kernel": [3, 5, 7],
    "act": ["relu", "silu"],
    "depth": [1, 2, 3, 4],
    "blocks": {"repeat": "depth", "of": {"expand": [1, 2, 4], "attention": [False, True]}},
}
BUDGET = {"flops": "400k"}  # about half of what random draws cost
TENTH = 10


@dataclass(frozen=True)
class Row:
    """Seconds of one search, of the processor except for the disk; ``last_*``: per trial, over the last tenth."""

    sampler: str
    trials: int
    proposals: int
    seconds: float
    sampler_seconds: float
    disk_seconds: float
    own_seconds: float
    last_sampler_ms: float
    last_disk_ms: float
    last_own_ms: float


class Instant:
    """An evaluator whose trainings take no time; implements ``Evaluator``."""

    def start(self, work: Work) -> InstantRun:
        return InstantRun(work)


class InstantRun:
    def __init__(self, work: Work) -> None:
        self._work, self._rung = work, 0

    def next_rung(self) -> RungResult:
        rung = self._rung
        self._rung += 1
        share = self._work.rungs[rung]
        noise = int(self._work.architecture.hash[:6], 16) / 16**6
        capacity = math.log(costs(self._work.architecture)["flops"]) / 14
        return RungResult(
            rung, round(share * 90), (0.4 * capacity + 0.1 * noise) * (1 - 0.5 * math.exp(-4 * share)), share
        )

    def close(self) -> None:
        pass


def costs(architecture: Architecture) -> dict[str, float]:
    values: Any = architecture.values
    blocks = sum(block["expand"] * (2 if block["attention"] else 1) for block in values["blocks"])
    return {"flops": float(values["width"] ** 2 * values["kernel"] * blocks), "params": float(values["width"] * blocks)}


@contextmanager
def timed(
    owner: Any, names: tuple[str, ...], total: list[float], clock: Callable[[], float] = time.process_time
) -> Iterator[None]:
    """Add the seconds of all calls of methods within the block to ``total[0]``."""
    before = {name: getattr(owner, name) for name in names}

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            started = clock()
            try:
                return original(*arguments, **keywords)
            finally:
                total[0] += clock() - started

        return run

    for name, original in before.items():
        setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        for name, original in before.items():
            setattr(owner, name, original)


def measure(sampler: str, trials: int, *, watched: bool) -> Row:
    search = SearchConfig(trials=trials, seeds=3, sampler=SamplerConfig(name=sampler))
    objectives = Objectives.from_config(search)
    asked, written = [0.0], [0.0]
    marks: list[tuple[float, float, float]] = []
    with TemporaryDirectory() as scratch, RunFolder(Path(scratch) / "run").lock() as folder:
        controller = Controller(
            open_journal(folder, directions=objectives.directions, names=objectives.names),
            folder,
            space=SearchSpace.from_dict(SPACE, builder="builtins:dict"),
            pricing=Pricing(costs, Budget.parse(BUDGET)),
            search=search,
            score=ScoreConfig(rungs=(1 / 9, 1 / 3, 1.0)),
            seed=0,
            margin=0.02,
        )

        def on_event(event: Event) -> None:
            if watched:
                controller.progress()
            if event.kind in ("complete", "pruned"):
                marks.append((time.process_time(), asked[0], written[0]))

        controller._on_event = on_event
        # A backend's own checkpoints are none of this: the folder of each is only looked for.
        with timed(Proposals, ("ask", "insert", "tell"), asked), timed(os, ("fsync",), written, time.perf_counter):
            started = time.process_time()
            InProcessBackend().run(controller, Instant())
            seconds = time.process_time() - started
        proposals = len(controller._ledger)
    last = [1e3 * (end - begin) / (trials // TENTH) for begin, end in zip(marks[-1 - trials // TENTH], marks[-1])]
    return Row(
        sampler,
        trials,
        proposals,
        seconds,
        asked[0],
        written[0],
        seconds - asked[0],
        last[1],
        last[2],
        last[0] - last[1],
    )


def main() -> None:
    options = _options()
    rows = []
    for trials in options.trials:
        for sampler in options.samplers:
            rows.append(measure(sampler, trials, watched=options.watched))
            print(rows[-1], flush=True)
    if not options.quick:
        _write(rows, (options.output or PAGES / "bookkeeping.md").with_suffix(".csv"))
    publish("bookkeeping", "The bookkeeping of a trial", _parts(rows, options.watched), options)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--trials", type=int, nargs="+", default=[500, 2000, 5000], help="lengths of the searches")
    made.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    made.add_argument("--watched", action="store_true", help="take a snapshot at every event, as a terminal does")
    options = made.parse_args()
    if options.quick:
        options.trials = [30]
    return options


def _write(rows: list[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in asdict(row).items()} for row in rows)


def _short(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _parts(rows: list[Row], watched: bool) -> list[str]:
    seen = "A snapshot is taken at every event, as a terminal does." if watched else "Nobody looks at the progress."
    about = f"""Milliseconds of processor time per trained trial, in searches whose trainings take no time; what a trial
shares of the proposals over budget is included. *Sampler* is the time within Optuna's sampler and its study in memory,
*own* everything else: ledger, costs, dominance rule, journal. *Disk* is the wait for `fsync` of each line of the
journal. "At the end" is the mean over the last tenth of the trials. {seen} Rows: [bookkeeping.csv](bookkeeping.csv)."""
    headers = [
        "sampler",
        "trials",
        "proposals",
        "own",
        "own, at the end",
        "sampler",
        "sampler, at the end",
        "disk",
        "own in all",
    ]
    body = [
        [
            row.sampler,
            f"{row.trials:,}",
            f"{row.proposals:,}",
            f"**{1e3 * row.own_seconds / row.trials:.2f}**",
            f"{row.last_own_ms:.2f}",
            f"{1e3 * row.sampler_seconds / row.trials:.1f}",
            f"{row.last_sampler_ms:.1f}",
            f"{1e3 * row.disk_seconds / row.trials:.1f}",
            f"{row.own_seconds:.1f} s",
        ]
        for row in rows
    ]
    return [about, table(headers, body)]


if __name__ == "__main__":
    main()
