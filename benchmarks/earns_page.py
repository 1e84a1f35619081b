"""The page of benchmarks/earns.py: each way at each limit, its gain over uniform narrowing, and the rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from common import PAGES, table

ABOUT = {
    "uniform": "uniform narrowing",
    "halved": "every second block dropped, the rest uniform",
    "random": "random cut at the limit",
    "allocated": "allocation search, least divergence",
    "raced": "allocation search, short KD of the best of each depth",
}
COLUMNS = (
    *("teacher", "share", "arm", "seed", "flops", "params", "blocks", "divergence", "looks", "trained", "steps"),
    *("search_seconds", "training_seconds", "validation", "test"),
)
Row = Mapping[str, Any]


def write_rows(rows: Sequence[Row]) -> None:
    """Write docs/benchmarks/earns.csv: one row per training."""
    with (PAGES / "earns.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def page(rows: Sequence[Row], images: int) -> list[str]:
    """Return the blocks of the page."""
    cells = sorted({(row["teacher"], row["share"]) for row in rows})
    parts = [
        f"All arms may see {images:,} training images in all; an image that a network is only shown counts a third. "
        "Test accuracy is of the one last training per seed. The search and the random cuts have a seed of their own "
        "per training, so errors (standard errors over seeds) include it; uniform narrowing and halving are the same "
        "network under every seed. Limits are shares of the teacher's FLOPs. The rows are in [earns.csv](earns.csv)."
    ]
    for teacher, share in cells:
        here = [row for row in rows if (row["teacher"], row["share"]) == (teacher, share)]
        parts += [f"## The {teacher} teacher at {share:.0%} of its FLOPs", _cell(here)]
    return [*parts, *(_verdict(rows, cells, arm) for arm in ABOUT if arm != "uniform")]


def _cell(rows: Sequence[Row]) -> str:
    lines = []
    base = _of(rows, "uniform")
    for arm, about in ABOUT.items():
        own = _of(rows, arm)
        if not own:
            continue
        gain = "-" if arm == "uniform" or not base else _gain_text(own, base)
        lines.append(
            [
                about,
                len(own),
                _mean_text([row["test"] for row in own]),
                gain,
                f"{fmean(row['flops'] for row in own) / 1e6:.2f} M",
                f"{fmean(row['blocks'] for row in own):.1f}",
                f"{fmean(row['steps'] for row in own):.0f}",
            ]
        )
    heads = ["student", "trainings", "test accuracy", "over uniform, points", "FLOPs", "blocks", "steps"]
    return table(heads, lines)


def _of(rows: Sequence[Row], arm: str) -> list[Row]:
    return [row for row in rows if row["arm"] == arm]


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


def _verdict(rows: Sequence[Row], cells: Sequence[tuple[str, float]], arm: str) -> str:
    better, worse, counted = [], [], 0
    for teacher, share in cells:
        here = [row for row in rows if (row["teacher"], row["share"]) == (teacher, share)]
        own, base = _of(here, arm), _of(here, "uniform")
        if len(own) < 2 or len(base) < 2:
            continue
        counted += 1
        difference, error = _gain(own, base)
        if difference > 2 * error:
            better.append(f"{teacher} {share:.0%}")
        if difference < -2 * error:
            worse.append(f"{teacher} {share:.0%}")
    if not counted:
        return f"*{ABOUT[arm]}*: too few trainings for a verdict."
    return (
        f"*{ABOUT[arm]}* is better than uniform narrowing by more than two standard errors in {len(better)} of "
        f"{counted} cells ({', '.join(better) or 'none'}), and worse in {len(worse)} ({', '.join(worse) or 'none'})."
    )
