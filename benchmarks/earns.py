"""Gain of the search for widths and blocks over networks that need no search, at equal training images in all.

Two teachers on Fashion-MNIST: the shipped one of 3 wide blocks, and one of 27 (benchmarks/deep-teacher.yaml, trained
before with ``nas-distill teach``). Each is cut to shares of its FLOPs in five ways: uniform narrowing; every second
droppable block dropped and the rest narrowed uniformly; a random cut that spends the limit; the cut that an
allocation search judges best; and the best of each of its depths, compared after a short distillation. All are
reconstructed and distilled by the same training; what a search is only shown counts a third of a training image.
Searches and random cuts have a seed of their own per training.

    python benchmarks/earns.py --root /usr/share/datasets/fashion-mnist --deep DEEP_TEACHER --work FOLDER [--minutes 30]

What is finished is kept in the work folder; started again, it continues. ``--report`` writes the page of what is there.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from common import parser, publish
from earns_page import page, write_rows
from earns_train import ARMS, Job, Settings, run_job
from trainings import Book, say


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        root=options.root, deep=str(options.deep) if options.deep else None, images=options.images, work=options.work
    )
    book = Book(options.work / "results.json")
    book.hold({key: value for key, value in asdict(settings).items() if key in ("root", "images")})
    if not options.report:
        _run(book, list(_jobs(options)), settings, options)
    rows = [book[job.key] for job in _jobs(options) if job.key in book]
    if not options.quick:
        write_rows(rows)
    publish("earns", "What the search earns", page(rows, options.images), options)


def _jobs(options: argparse.Namespace) -> Iterator[Job]:
    for seed in range(options.seeds):
        for share in options.limits:
            for teacher in options.teachers:
                for arm in ARMS:
                    if teacher == "shipped" and arm == "halved":
                        continue  # a single block of it can be dropped
                    if options.arms is None or arm in options.arms:
                        yield Job(teacher, share, arm, seed)


def _run(book: Book, jobs: list[Job], settings: Settings, options: argparse.Namespace) -> None:
    """Run what the book lacks, ``workers`` at a time; none is begun after the time limit."""
    waiting = [job for job in jobs if job.key not in book]
    began = time.monotonic()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running: dict[Future[dict[str, object]], Job] = {}
        while waiting or running:
            late = options.minutes is not None and time.monotonic() - began > 60 * options.minutes
            if late:
                waiting.clear()
            while waiting and len(running) < options.workers:
                job = waiting.pop(0)
                running[pool.submit(run_job, job, settings)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                job = running.pop(future)
                found = future.result()
                book[job.key] = found
                say(f"{(time.monotonic() - began) / 60:6.1f} min  {job.key}: test accuracy {found['test']:.2%}")


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--root", help="folder of the whole set's IDX files; without it, the embedded subset is used")
    made.add_argument("--deep", type=Path, help="folder of the trained deep teacher")
    made.add_argument("--work", type=Path, required=True, help="where results are kept")
    made.add_argument("--teachers", nargs="+", default=["deep", "shipped"], choices=["deep", "shipped"])
    made.add_argument("--limits", type=float, nargs="+", default=[0.1, 0.2], help="shares of the teacher's FLOPs")
    made.add_argument("--arms", nargs="+", choices=ARMS, help="only these")
    made.add_argument("--images", type=int, default=100_000, help="that an arm may see in all")
    made.add_argument("--seeds", type=int, default=3, help="searches and trainings per arm and limit")
    made.add_argument("--workers", type=int, default=2, help="jobs at a time, each of one thread")
    made.add_argument("--minutes", type=float, help="begin nothing after so long, to continue later")
    made.add_argument("--report", action="store_true", help="write the page of what there is, and train nothing")
    options = made.parse_args()
    if options.quick:
        options.images, options.seeds, options.limits, options.teachers = 24_000, 1, [0.2], ["shipped"]
    elif "deep" in options.teachers and options.deep is None:
        made.error("give --deep, the folder of the deep teacher, or --teachers shipped")
    options.work = options.work.resolve()
    options.deep = None if options.deep is None else options.deep.resolve()
    return options


if __name__ == "__main__":
    main()
