"""Benchmark of importance criteria and of block order in pruning, against each other and a random choice.

The shipped teacher is narrowed uniformly to shares of its FLOPs, and keeps the channels that each criterion names; a
deeper one, trained here, loses two, four and six of its seven blocks that can go, in each order. What the networks are
worth on validation data is noted before any training (batch norm re-estimated) and after a short KD.

    python benchmarks/importance.py --work FOLDER [--minutes 10]

What is finished is kept in the work folder; started again, it resumes (``--minutes`` stops it in time).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import PAGES, parser, publish
from importance_page import page, raw
from importance_train import Study
from trainings import resumable, work_folder

from nas_distill.data import Views, load_dataset
from nas_distill.study.interruption import interruptible
from nas_distill.utils.files import write_text


def main() -> None:
    options = _options()
    with work_folder(options.work) as options.work:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    data = load_dataset("fashion-mnist", views=Views(count=2, pad=2, flip=True))
    study = Study(
        data,
        options.work,
        seeds=options.seeds,
        epochs=options.epochs,
        rate=options.rate,
        limits=options.limits,
        depths=not options.no_depths,
    )
    if not options.page:
        with resumable(options.minutes), interruptible() as interruption:
            study.run(interruption, workers=options.workers)
    publish("importance", "What is kept of a teacher", page(study), options)
    if options.output is not None or not options.quick:
        write_text((options.output or PAGES / "importance.md").with_suffix(".csv"), raw(study))


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--work", type=Path, help="where networks and results are kept")
    made.add_argument("--epochs", type=float, default=1.0, help="of the short distillation")
    made.add_argument("--rate", type=float, default=0.02, help="its learning rate")
    made.add_argument("--limits", type=float, nargs="+", default=[0.1, 0.2, 0.4], help="shares of the teacher's FLOPs")
    made.add_argument("--page", action="store_true", help="only write the page of what there is")
    made.add_argument("--no-depths", action="store_true", help="leave out which blocks go")
    made.add_argument("--seeds", type=int, default=3, help="of each row, 2 or more")
    made.add_argument("--workers", type=int, default=2, help="trainings at a time, each of one thread")
    made.add_argument("--minutes", type=float, help="stop after so long, to continue later")
    options = made.parse_args()
    if options.quick:
        options.epochs, options.seeds = 0.02, 2
    elif options.work is None:
        made.error("give --work, a folder where results are kept")
    if options.seeds < 2:
        made.error("--seeds must be 2 or more: noise is judged by them")
    return options


if __name__ == "__main__":
    main()
