"""Overhead of the engine beside the training: the share of worker time spent training, and the cost of a trial.

Runs a search file (the quick start unless another is named) and reads the run's journal; ``--run RUN`` reads a finished
run instead, and then times of the driver's own work (asking, costing) are missing, since no journal holds them.

    python benchmarks/engine_cost.py [runs/quickstart.yaml] [--folder FOLDER] [--run RUN]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import ROOT, parser, publish, table

from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import metadata_of, read_study
from nas_distill.runs.metadata import Phase
from nas_distill.runs.records import TrialRecord, from_trial

TIMED = {  # what of the driver's work is timed: name -> where it is done
    "asking the sampler": ("nas_distill.engine.proposals", "Proposals", "ask"),
    "costing (build, count, predict)": ("nas_distill.engine.candidates", "Pricing", "__call__"),
    "next candidate, in all": ("nas_distill.engine.controller", "Controller", "next"),
    "judging and journalling a report": ("nas_distill.engine.controller", "Controller", "report"),
    "ending a trial": ("nas_distill.engine.controller", "Controller", "finish"),
}


@dataclass(frozen=True)
class Flight:
    """One trained trial: when the driver handed it out and had its end (Unix time), and what it trained."""

    begun: float
    ended: float
    record: TrialRecord

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


def main() -> None:
    options = _options()
    driver: dict[str, list[float]] = {}
    with TemporaryDirectory() as scratch:
        folder = options.run
        if folder is None:
            folder = options.folder or Path(scratch) / "run"
            with driver_timed() as driver:
                folder = _search(options, folder)
        publish("engine_cost", "What the engine costs", _parts(RunFolder(folder), driver, options), options)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("file", type=Path, nargs="?", default=ROOT / "runs" / "quickstart.yaml", help="search file")
    made.add_argument("--folder", type=Path, help="keep the run there")
    made.add_argument("--run", type=Path, help="read this finished run instead of making one")
    return made.parse_args()


def _search(options: argparse.Namespace, folder: Path) -> Path:
    from nas_distill.study import search

    quick: dict[str, Any] = {}
    if options.quick:
        tiny = {"epochs": 0.1, "count": 1, "baseline": False, "uniform": False}
        quick = {"trials": 4, "seeds": 1, "score": {"epochs": 0.3}, "final": tiny, "latency": {"calibrate": 0}}
    return search(options.file, folder=folder, **quick).folder.path


@contextmanager
def driver_timed() -> Iterator[dict[str, list[float]]]:
    """Time, within the block, every call of the methods in ``TIMED``: seconds by name."""
    from importlib import import_module

    found: dict[str, list[float]] = defaultdict(list)
    before = []
    for name, (module, owner, method) in TIMED.items():
        kind = getattr(import_module(module), owner)
        original = getattr(kind, method)
        before.append((kind, method, original))
        setattr(kind, method, _timed(original, found[name]))
    try:
        yield found
    finally:
        for kind, method, original in before:
            setattr(kind, method, original)


def _timed(original: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def run(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*arguments, **keywords)
        finally:
            seconds.append(time.perf_counter() - started)

    return run


def _parts(folder: RunFolder, driver: dict[str, list[float]], options: argparse.Namespace) -> list[str]:
    study = read_study(folder)
    metadata = metadata_of(study, folder.journal)
    whole = metadata.timings[Phase.SEARCH]
    from nas_distill.config import load_search_file

    config = load_search_file(folder.search_yaml)
    workers = config.search.workers
    lanes = _lanes(_flights(study), workers)
    flights = [flight for lane in lanes for flight in lane]
    startup = metadata.startup_seconds or 0.0
    busy = workers * (whole - startup)
    training = sum(flight.record.seconds for flight in flights)
    # A worker's first flight contains the wait for the worker itself, so the others say what is usual.
    around = _mean([flight.seconds - flight.record.seconds for lane in lanes for flight in lane[1:]]) * len(flights)
    between = sum(max(0.0, later.begun - sooner.ended) for lane in lanes for sooner, later in pairwise(lane))
    last = max(flight.ended for flight in flights)
    tail = sum(last - (lane[-1].ended if lane else flights[0].begun) for lane in lanes)
    rest = busy - training - around - between - tail
    about = f"""Search file `{folder.name if options.run is not None else options.file.name}`: {len(flights)} trials on
{workers} workers ({sum(flight.record.state == "pruned" for flight in flights)} stopped early), data {config.data.name},
space {config.space if isinstance(config.space, str) else "its own"}. The search phase took {whole:.1f} s, of
which {startup:.1f} s passed before the first worker began (Ray's start-up). Worker time is {workers} x the rest,
{busy:.1f} s. Training is the time within optimiser steps, as the workers report it. Aim: at least 85 %."""
    rows = [
        [name, f"{seconds:.1f} s", f"{seconds / busy:.1%}", f"{seconds / len(flights):.2f} s"]
        for name, seconds in {
            "training": training,
            "in the trial, not training: building, validating, saving, messages": around,
            "between trials: asking, costing, handing out": between,
            "out of work at the end, while others finish": tail,
            "rest: the other workers' start, the end of Tune's fit": rest,
        }.items()
    ]
    parts = [
        about,
        table(["worker time", "in all", "share", "a trial"], rows),
        f"**{training / busy:.1%} of worker time is training** ({training / (busy - tail):.1%} without the time at the "
        "end in which there is nothing left to hand out).",
    ]
    if driver:
        parts += [_driver_text(), _driver_table(driver, len(flights))]
    phases = [[name, f"{seconds:.1f} s"] for name, seconds in metadata.timings.items()]
    return [*parts, "All phases of the run:", table(["phase", "wall time"], phases)]


def _flights(study: Any) -> list[Flight]:
    found = []
    for trial in study.get_trials(deepcopy=False):
        record = from_trial(trial)
        if record.trained and record.reports:
            found.append(Flight(trial.datetime_start.timestamp(), trial.datetime_complete.timestamp(), record))
    return found


def _lanes(flights: list[Flight], workers: int) -> list[list[Flight]]:
    """Return what each worker did, in order; which of the free ones took a flight does not matter for sums."""
    lanes: list[list[Flight]] = [[] for _ in range(workers)]
    for flight in sorted(flights, key=lambda flight: flight.begun):
        # The one that became free last; one that is not free yet only if the clock's grain says so.
        free = [lane for lane in lanes if not lane or lane[-1].ended <= flight.begun]
        lane = max(free, key=_end) if free else min(lanes, key=_end)
        lane.append(flight)
    return lanes


def _end(lane: list[Flight]) -> float:
    return lane[-1].ended if lane else float("-inf")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _driver_text() -> str:
    return """What the driver did meanwhile, in its own process (workers wait for it only between trials; *next
candidate* contains asking and costing, also of those over budget or repeated):"""


def _driver_table(driver: dict[str, list[float]], count: int) -> str:
    rows = []
    for name, seconds in driver.items():
        if seconds:
            median, most = 1e3 * float(np.median(seconds)), 1e3 * max(seconds)
            rows.append(
                [name, len(seconds), f"{median:.1f} ms", f"{most:.1f} ms", f"{1e3 * sum(seconds) / count:.1f} ms"]
            )
    return table(["driver", "calls", "median", "longest", "a trained trial"], rows)


if __name__ == "__main__":
    main()
