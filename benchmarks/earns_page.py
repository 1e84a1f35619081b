"""The page of benchmarks/earns.py: each way at each limit, its gain over uniform narrowing, and the rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from common import PAGES, table
from earns_jobs import COSTS, FLOPS, NOTHING, Limit, job_of

ABOUT = {
    "uniform": "uniform narrowing",
    "halved": "every second block dropped, the rest uniform",
    "random": "random cut at the limit",
    "allocated": "allocation search, least divergence",
    "raced": "allocation search, short KD of the best of each depth",
    "fastnas": "FastNAS (Model Optimizer)",
}
NAMES = {"deep": "the deep teacher", "vit": "the vision transformer", "shipped": "the shipped teacher"}
TEXTS, COUNTS = ("teacher", "cost", "arm"), ("seed", "blocks", "looks", "trained", "steps")
COLUMNS = (
    *("teacher", "cost", "share", "arm", "seed", "flops", "params", "ms", "teacher_ms", "blocks", "divergence"),
    *("looks", "trained", "steps", "search_seconds", "training_seconds", "validation", "test"),
)
TIMING_HISTORY = (
    "The method of timing changed while the rows of 2026-11-30 were measured. Rows whose teacher took over 0.66 ms "
    "were timed again by the present method, and a uniform network at half of the time (5.39 M FLOPs, test accuracy "
    "91.15%) that then measured 51.1% was replaced by a smaller one. Other rows at limits of FLOPs keep the earlier "
    "method, the median of all visits, disturbed ones too."
)
Row = Mapping[str, Any]
Cell = tuple[str, Limit]


def write_rows(rows: Sequence[Row]) -> None:
    """Write docs/benchmarks/earns.csv: one row per training."""
    with (PAGES / "earns.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows that ``write_rows`` wrote.

    A figure that was not there is None, or missing if it is a time. Without a test accuracy, nothing was found.
    """
    with file.open(newline="", encoding="utf-8") as stream:
        return [_parsed(row) for row in csv.DictReader(stream)]


def _parsed(row: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"cost": FLOPS}
    for name, value in row.items():
        if value == "" and name in ("ms", "teacher_ms"):
            continue
        kind = str if name in TEXTS else int if name in COUNTS else float
        found[name] = None if value == "" else kind(value)
    return found if found["test"] is not None else found | {NOTHING: True}


def page(rows: Sequence[Row], images: int) -> list[str]:
    """Return the blocks of the page."""
    order = list(NAMES)
    cells = sorted(
        {(row["teacher"], job_of(row).limit) for row in rows},
        key=lambda cell: (order.index(cell[0]), COSTS.index(cell[1].cost), -cell[1].share),
    )
    parts = [
        f"All arms may see {images:,} training images in all; an image that a network is only shown counts a third. "
        "Test accuracy is of the one last training per seed. The search and the random cuts have a seed of their own "
        "per training, so errors include it; they are standard errors over seeds, and rough, since seeds are few. "
        "Uniform narrowing, halving and FastNAS are the same network under every seed. Limits are shares of the "
        "teacher's FLOPs, or of its measured time (ONNX Runtime, 1 thread, batch 1). Each student is timed beside its "
        "teacher, in interleaved rounds: *time* is the "
        "median of 9 medians of 100 runs, and *of the teacher* its ratio to the teacher's. Within a limit of time, "
        "rules take the largest network whose measured time fits, by bisection; a search predicts times by a model "
        "fitted to 30 timed cuts, and leaves out what it found if its measured time does not fit. The rows are in "
        "[earns.csv](earns.csv).",
        TIMING_HISTORY,
        "## Verdicts",
        *(_verdict(rows, cells, arm, "uniform") for arm in ABOUT if arm != "uniform" and _of(rows, arm)),
        *(
            _verdict(rows, cells, arm, base)
            for arm in ("allocated", "raced")
            for base in ("halved", "random", "fastnas")
            if _of(rows, arm) and _of(rows, base)
        ),
        *(text for cell in cells if (text := _without_uniform(_here(rows, cell), cell))),
        *_speeds(rows, cells),
    ]
    for cell in cells:
        parts += [f"## {_title(cell)}", _cell(_here(rows, cell))]
    return parts


def _cell(rows: Sequence[Row]) -> str:
    lines = []
    base = _of(rows, "uniform")
    for arm, about in ABOUT.items():
        own = _of(rows, arm)
        if not own:
            continue
        timed = [row for row in own if "ms" in row]
        lines.append(
            [
                about,
                len(own),
                _mean_text([row["test"] for row in own]),
                "-" if arm == "uniform" or not base else _gain_text(own, base),
                f"{fmean(row['flops'] for row in own) / 1e6:.2f} M",
                f"{fmean(row['ms'] for row in timed):.3f} ms" if timed else "-",
                f"{fmean(_share(row) for row in timed):.1%}" if timed else "-",
                f"{fmean(row['blocks'] for row in own):.1f}",
                f"{fmean(row['steps'] for row in own):.0f}",
            ]
        )
    heads = ["student", "trainings", "test accuracy", "over uniform, points", "FLOPs", "time", "of the teacher"]
    return table([*heads, "blocks", "steps"], lines)


def _title(cell: Cell) -> str:
    name = NAMES[cell[0]]
    return f"{name[0].upper()}{name[1:]} at {cell[1].text()}"


def _without_uniform(rows: Sequence[Row], cell: Cell) -> str | None:
    """Return a sentence on a cell in which no uniform narrowing is within the limit, None on others."""
    if not any(row["arm"] == "uniform" and NOTHING in row for row in rows):
        return None
    return f"No uniform narrowing is within the limit for {NAMES[cell[0]]} at {cell[1].text()}."


def _here(rows: Sequence[Row], cell: Cell) -> list[Row]:
    return [row for row in rows if (row["teacher"], job_of(row).limit) == cell]


def _of(rows: Sequence[Row], arm: str) -> list[Row]:
    """Return the trainings of an arm."""
    return [row for row in rows if row["arm"] == arm and NOTHING not in row]


def _share(row: Row) -> float:
    return float(row["ms"] / row["teacher_ms"])


def _gain(own: Sequence[Row], base: Sequence[Row]) -> tuple[float, float]:
    """Return the difference of the mean test accuracies, and its standard error."""
    difference = fmean(row["test"] for row in own) - fmean(row["test"] for row in base)
    return difference, math.hypot(_error(own), _error(base))


def _error(rows: Sequence[Row]) -> float:
    return stdev(row["test"] for row in rows) / math.sqrt(len(rows)) if len(rows) > 1 else math.nan


def _gain_text(own: Sequence[Row], base: Sequence[Row]) -> str:
    difference, error = _gain(own, base)
    return f"{100 * difference:+.2f}" + ("" if math.isnan(error) else f" ± {100 * error:.2f}")


def _mean_text(values: Sequence[float]) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{fmean(values):.2%}" + ("" if math.isnan(error) else f" ± {100 * error:.2f}")


def _verdict(rows: Sequence[Row], cells: Sequence[Cell], arm: str, other: str) -> str:
    """Return in which cells an arm is better or worse than another, of those with two trainings of each."""
    better, worse, behind, counted = [], [], [], 0
    for cell in cells:
        here = _here(rows, cell)
        own, base = _of(here, arm), _of(here, other)
        if len(own) < 2 or len(base) < 2:
            continue
        counted += 1
        difference, error = _gain(own, base)
        name = f"{cell[0]}, {cell[1].text()}"
        better += [name] if difference > 2 * error else []
        worse += [name] if difference < -2 * error else []
        behind += [name] if -2 * error <= difference < 0 else []
    if not counted:
        return f"*{ABOUT[arm]}* against *{ABOUT[other]}*: too few trainings for a verdict."
    lower = f" Lower, but by less than two standard errors: {'; '.join(behind)}." if behind else ""
    return (
        f"*{ABOUT[arm]}* is better than *{ABOUT[other]}* by more than two standard errors in {len(better)} of "
        f"{counted} cells ({'; '.join(better) or 'none'}), and worse in {len(worse)} ({'; '.join(worse) or 'none'})."
        f"{lower}"
    )


def _speeds(rows: Sequence[Row], cells: Sequence[Cell]) -> list[str]:
    """Return how much faster students are than uniformly narrowed ones at equal FLOPs, a sentence per cell."""
    found = []
    for cell in cells:
        here = [row for row in _here(rows, cell) if "ms" in row]
        base = _of(here, "uniform")
        ratios = [
            f"{fmean(map(_share, base)) / fmean(map(_share, own)):.2f} ({ABOUT[arm]})"
            for arm in ABOUT
            if arm != "uniform" and base and (own := _of(here, arm))
        ]
        if cell[1].cost == FLOPS and ratios:
            found.append(
                f"Times as fast as uniform narrowing, {NAMES[cell[0]]} at {cell[1].text()}: {', '.join(ratios)}."
            )
    return found
