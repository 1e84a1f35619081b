"""How well judges of untrained cuts rank students: rank correlation with test accuracy after distillation.

For two teachers, random cuts that spend a half to the whole of 10 % of the FLOPs. Each is judged before training, by
FLOPs only, by the sum of the divergences of its single cuts (the additive estimate that integer programs minimise), by
the divergence and the validation accuracy of the whole untrained cut, and by validation accuracy after a short
distillation; then it is distilled, and evaluated on test data. The best of the students against uniform narrowing is
the most that choosing among random cuts can give.

    python benchmarks/judges.py --root /usr/share/datasets/fashion-mnist --work FOLDER [--minutes 30]

What is finished is kept in the work folder; started again, it continues. ``--report`` writes the page of what is there.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import PAGES, parser, publish, table
from earns_cuts import RACE
from earns_jobs import FLOPS, SHIPPED, Settings
from earns_setting import BATCH, Setting
from scipy.stats import rankdata, spearmanr
from trainings import Book, say

from nas_distill.allocation.judge import CutJudge
from nas_distill.allocation.polynomial import random_cut
from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.predict import predict_logits
from nas_distill.pruning.plan import DROPPED, Cut, active_groups
from nas_distill.utils.seeds import numpy_rng

SHARE = 0.1
SAMPLES = (128, 512)
UNIFORM = "uniform"
JUDGES: Mapping[str, tuple[str, int]] = {
    "flops": ("FLOPs only", 1),
    "single": (f"sum of the divergences of single cuts, {SAMPLES[0]} samples", -1),
    **{f"divergence_{count}": (f"divergence of the untrained cut, {count} samples", -1) for count in SAMPLES},
    "untrained": ("validation accuracy of the untrained cut", 1),
    "short": (f"validation accuracy after {RACE:,} images", 1),
}
"""Judges with their sign: 1 if more is better."""
DRAWS = 2_000
Row = Mapping[str, Any]


class Judging:
    """The cuts of one teacher and their judges."""

    def __init__(self, name: str, settings: Settings, images: int) -> None:
        self.setting = Setting(name, FLOPS, settings)
        self.images = images
        self.full = self.setting.space.unpruned
        self.judge = CutJudge.make(self.setting.inheritance, self.setting.store, max(SAMPLES))

    def cut(self, number: int | str) -> Cut:
        """Return the uniform cut at the limit, or by number a random cut that spends a random share of it."""
        found = self.setting.moves(1.0, SHARE).uniform() if isinstance(number, str) else self._random(number)
        if found is None:
            raise SystemExit(f"{self.setting.name}-{number}: nothing fits.")
        return found

    def _random(self, number: int) -> Cut | None:
        rng = numpy_rng(number, "judges", self.setting.name)
        moves = self.setting.moves(float(rng.uniform(0.5, 1.0)), SHARE)
        drawn = random_cut(moves.space, rng)
        return moves.filler.scaled(drawn.blocks, moves.profile(drawn), rng)

    def row(self, number: int | str, cut: Cut) -> dict[str, Any]:
        """Judge a cut in every way, distil it, and evaluate it."""
        setting = self.setting
        network = setting.student(cut)
        short = setting.distilled(setting.student(cut), RACE // BATCH, 0)
        finished = setting.distilled(setting.student(cut), self.images // BATCH, 0)
        return {
            "teacher": setting.name,
            "student": number,
            "flops": setting.costs(cut)[FLOPS],
            "blocks": len(cut.kept_blocks),
            "single": self._single(cut),
            **{f"divergence_{count}": self.judge.divergence(cut, count) for count in SAMPLES},
            "untrained": self._accuracy(network, "val"),
            "short": short.quality(),
            "validation": finished.quality(),
            "test": self._accuracy(finished.student(), "test"),
        }

    def _accuracy(self, network: torch.nn.Module, split: Any) -> float:
        data = self.setting.data
        return float(accuracy(predict_logits(network, data.inputs(split)), data.labels(split)))

    def _single(self, cut: Cut) -> float:
        """Return the sum over groups and blocks of the divergence of a cut of only that group or block."""
        dropped = [place for place, kind in enumerate(cut.blocks) if kind != self.full.blocks[place]]
        narrowed = [name for name, width in cut.widths.items() if width != self.full.widths[name]]
        return sum(map(self._without, dropped)) + sum(self._narrowed(name, cut.widths[name]) for name in narrowed)

    @cache  # noqa: B019 - one object per process
    def _without(self, place: int) -> float:
        blocks = list(self.full.blocks)
        blocks[place] = DROPPED
        kept = {group.name for group in active_groups(self.setting.space.plan, blocks)}
        widths = {name: width for name, width in self.full.widths.items() if name in kept}
        return self.judge.divergence(Cut(widths, tuple(blocks), self.full.start), SAMPLES[0])

    @cache  # noqa: B019
    def _narrowed(self, name: str, width: int) -> float:
        widths = {**self.full.widths, name: width}
        return self.judge.divergence(Cut(widths, self.full.blocks, self.full.start), SAMPLES[0])


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    book = Book(options.work / "judges.json")
    book.hold({"root": options.root, "images": options.images})
    if not options.report:
        torch.set_num_threads(1)
        _run(book, options)
    rows = [row for key, row in book.items() if key != "settings"]
    if not options.quick:
        _write_rows(rows)
    publish("judges", "Judges of cuts before training", _page(rows, options), options)


def _run(book: Book, options: argparse.Namespace) -> None:
    began = time.monotonic()
    settings = Settings(options.root, SHIPPED, options.images, options.work)
    for name in options.teachers:
        judging = Judging(name, settings, options.images)
        for number in (UNIFORM, *range(options.students)):
            key = f"{name}-{number}"
            if key in book:
                continue
            if options.minutes is not None and time.monotonic() - began > 60 * options.minutes:
                return
            book[key] = judging.row(number, judging.cut(number))
            say(f"{(time.monotonic() - began) / 60:6.1f} min  {key}: test accuracy {book[key]['test']:.2%}")


def _page(rows: Sequence[Row], options: argparse.Namespace) -> list[str]:
    parts = [
        f"Random cuts that spend a half to the whole of {SHARE:.0%} of the teacher's FLOPs, each distilled on "
        f"{options.images:,} images. Spearman's rank correlation of each judge with test accuracy (1 is a perfect "
        f"ranking), with 95 % intervals from {DRAWS:,} bootstrap draws over students; *at equal FLOPs* is the partial "
        "rank correlation given FLOPs. The rows are in [judges.csv](judges.csv)."
    ]
    for name in SHIPPED:
        own = [row for row in rows if row["teacher"] == name and row["student"] != UNIFORM]
        base = next((row for row in rows if row["teacher"] == name and row["student"] == UNIFORM), None)
        if len(own) < 5:
            continue
        lines = [[about, *_correlations(own, judge, sign)] for judge, (about, sign) in JUDGES.items()]
        parts.append(f"## The {name} teacher, {len(own)} students")
        parts.append(table(["judge", "rank correlation", "at equal FLOPs"], lines))
        if base is not None:
            best = max(own, key=lambda row: row["validation"])
            parts.append(
                f"Of these students, the best on validation data has a test accuracy of {best['test']:.2%} at "
                f"{best['flops'] / 1e6:.2f} M FLOPs; uniform narrowing has {base['test']:.2%} at "
                f"{base['flops'] / 1e6:.2f} M."
            )
    return parts


def _correlations(rows: Sequence[Row], judge: str, sign: int) -> list[str]:
    given = sign * np.array([row[judge] for row in rows], dtype=float)
    flops = np.array([row["flops"] for row in rows], dtype=float)
    truth = np.array([row["test"] for row in rows], dtype=float)
    rng = numpy_rng(0, "bootstrap")
    draws = [rng.integers(len(rows), size=len(rows)) for _ in range(DRAWS)]

    def text(measure: Callable[[np.ndarray], float]) -> str:
        everything = measure(np.arange(len(rows)))
        found = [value for value in map(measure, draws) if np.isfinite(value)]
        low, high = np.quantile(found, (0.025, 0.975))
        return f"{everything:.2f} ({low:.2f} to {high:.2f})"

    plain = text(lambda chosen: float(spearmanr(given[chosen], truth[chosen]).statistic))
    if judge == "flops":
        return [plain, "-"]
    return [plain, text(lambda chosen: _partial(given[chosen], truth[chosen], flops[chosen]))]


def _partial(one: np.ndarray, other: np.ndarray, given: np.ndarray) -> float:
    """Return the rank correlation of what a line in the ranks of ``given`` leaves of the other two."""
    base = np.stack([np.ones(len(given)), rankdata(given)], axis=1)
    left = [ranks - base @ np.linalg.lstsq(base, ranks, rcond=None)[0] for ranks in (rankdata(one), rankdata(other))]
    return float(np.corrcoef(*left)[0, 1])


def _write_rows(rows: Sequence[Row]) -> None:
    columns = ["teacher", "student", "flops", "blocks", *(name for name in JUDGES if name != "flops")]
    with (PAGES / "judges.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*columns, "validation", "test"])
        writer.writeheader()
        writer.writerows(rows)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--root", help="folder of the whole set's IDX files; without it, the embedded subset is used")
    made.add_argument("--work", type=Path, required=True, help="where results are kept")
    made.add_argument("--teachers", nargs="+", default=list(SHIPPED), choices=list(SHIPPED))
    made.add_argument("--students", type=int, default=40, help="random cuts per teacher")
    made.add_argument("--images", type=int, default=40_000, help="of each distillation")
    made.add_argument("--minutes", type=float, help="begin nothing after so long, to continue later")
    made.add_argument("--report", action="store_true", help="write the page of what there is, and train nothing")
    options = made.parse_args()
    if options.quick:
        options.students, options.images, options.teachers = 1, 3_000, ["shipped"]
    options.work = options.work.resolve()
    return options


if __name__ == "__main__":
    main()
