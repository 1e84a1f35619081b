"""Gain of the search for widths and blocks over networks that need no search, at equal training images in all.

Teachers on Fashion-MNIST: the shipped ones of 27 residual blocks ("deep") and of 3 wide ones ("shipped"), and a vision
transformer (benchmarks/vit-teacher.yaml, trained before with ``nas-distill teach``). Each is cut to
shares of its FLOPs, and of its measured time on ONNX Runtime with one thread: uniform narrowing; every second droppable
block dropped and the rest narrowed uniformly; a random cut that spends the limit; the cut that an allocation search
judges best; the best of each of its depths, compared after a short distillation; and for FLOPs, FastNAS (see
inherit.py for its environment). All are distilled by the same training, all but FastNAS's reconstructed; what a search
is only shown counts a third of a training image. Searches and random cuts have a seed of their own per training.

    python benchmarks/earns.py --root /usr/share/datasets/fashion-mnist --vit FOLDER --work FOLDER \\
        [--peer PYTHON] [--minutes 30] [--continue-from docs/benchmarks/earns.csv]

What is finished is kept in the work folder; started again, it continues. Rows of a table that is continued are timed if
they were not. ``--report`` writes the page of what there is.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import parser, publish
from earns_jobs import (
    ARMS,
    COSTS,
    FLOPS,
    FLOPS_SHARES,
    NOTHING,
    RULES,
    SHIPPED,
    TIME_SHARES,
    Limit,
    Settings,
    job_of,
    jobs,
)
from earns_page import page, read_rows, write_rows
from earns_train import run_job, time_row
from trainings import Book, say

from nas_distill.costs.latency import LATENCY

TEACHERS = ("deep", "vit", "shipped")


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    book = Book(options.work / "results.json")
    book.hold({"root": options.root, "images": options.images})
    for row in read_rows(options.continue_from) if options.continue_from else ():
        if (key := job_of(row).key) not in book:
            book[key] = row
    if not options.report:
        _run(book, options)
    rows = [row for key, row in book.items() if key != "settings"]
    if not options.quick:
        write_rows(rows)
    publish("earns", "What the search earns", page(rows, options.images), options)


def _run(book: Book, options: argparse.Namespace) -> None:
    """Run what the book lacks; nothing is begun after the time limit."""
    teachers = SHIPPED if options.vit is None else {**SHIPPED, "vit": str(options.vit)}
    settings = Settings(options.root, teachers, options.images, options.work, options.peer)
    limits = [Limit(share) for share in options.limits] if FLOPS in options.costs else []
    limits += [Limit(share, LATENCY) for share in options.times] if LATENCY in options.costs else []
    began = time.monotonic()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        for job in jobs(options.teachers, limits, options.arms, options.seeds, peer=options.peer is not None):
            if job.key in book and ("ms" in book[job.key] or NOTHING in book[job.key]):
                continue
            minutes = (time.monotonic() - began) / 60
            if options.minutes is not None and minutes > options.minutes:
                break
            others = (replace(job, seed=seed).key for seed in range(options.seeds))
            same = next((book[key] for key in others if key in book), None) if job.arm in RULES else None
            task: Callable[..., dict[str, Any]] = partial(run_job, same=same)
            if job.key in book:
                task = partial(time_row, row=book[job.key])
            row = book[job.key] = process.submit(task, job, settings).result()
            found = f"{row['ms']:.3f} ms, test accuracy {row['test']:.2%}" if "test" in row else "nothing fits"
            say(f"{minutes:6.1f} min  {job.key}: {found}")


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--root", help="folder of the whole set's IDX files; without it, the embedded subset is used")
    made.add_argument("--vit", type=Path, help="folder of the trained vision transformer")
    made.add_argument("--peer", type=Path, help="Python with Model Optimizer; without it, FastNAS is left out")
    made.add_argument("--work", type=Path, required=True, help="where results are kept")
    made.add_argument("--continue-from", type=Path, help="a table of this benchmark; its rows are not run again")
    made.add_argument("--teachers", nargs="+", choices=TEACHERS, help="only these")
    made.add_argument("--costs", nargs="+", default=COSTS, choices=COSTS, help="only limits of these")
    made.add_argument("--limits", type=float, nargs="+", default=FLOPS_SHARES, help="shares of the teacher's FLOPs")
    made.add_argument("--times", type=float, nargs="+", default=TIME_SHARES, help="shares of the teacher's time")
    made.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, help="only these")
    made.add_argument("--images", type=int, default=100_000, help="that an arm may see in all")
    made.add_argument("--seeds", type=int, default=3, help="searches and trainings per arm and limit")
    made.add_argument("--minutes", type=float, help="begin nothing after so long, to continue later")
    made.add_argument("--report", action="store_true", help="write the page of what there is, and train nothing")
    options = made.parse_args()
    if options.quick:
        options.images, options.seeds, options.limits, options.teachers = 24_000, 1, [0.2], ["shipped"]
        options.costs, options.peer = [FLOPS], None
    if options.teachers is None:
        options.teachers = [name for name in TEACHERS if name in SHIPPED or options.vit is not None]
    if "vit" in options.teachers and options.vit is None and not options.report:
        made.error("give --vit, the folder of that teacher")
    options.peer = None if options.peer is None else options.peer.absolute()  # not resolved: it may be a link
    for name in ("work", "vit"):
        folder = getattr(options, name)
        setattr(options, name, None if folder is None else folder.resolve())
    return options


if __name__ == "__main__":
    main()
