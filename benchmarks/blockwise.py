"""Blockwise distillation: how well local scores rank assembled students, and the gain from local training.

The shipped Fashion-MNIST teacher's blocks, and 12,000 training images. Random assemblies near below 10, 20 and 40 % of
the teacher's FLOPs are evaluated before any training and after a short KD, and compared with the sums of local scores,
the same with fitted weights, and FLOPs only. The best assembly by each score is trained too, and some students
from only the teacher's weights; at last, assembling for new limits is timed.

    python benchmarks/blockwise.py --work FOLDER [--minutes 30]
    python benchmarks/blockwise.py --work FOLDER --time              # the same, with assembling timed again

What is finished is kept in the work folder; started again, it resumes (``--minutes`` stops it in time).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from blockwise_page import page, raw
from blockwise_solve import measure
from blockwise_study import Study
from common import PAGES, parser, publish
from trainings import resumable, say, work_folder

from nas_distill.config import BlockwiseConfig
from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.study.interruption import interruptible
from nas_distill.utils.files import write_text


def main() -> None:
    options = _options()
    with work_folder(options.work) as options.work:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    settings = BlockwiseConfig(epochs=options.library, heldout=50 if options.quick else 1000)
    study = Study(
        _data(options),
        options.work,
        epochs=options.epochs,
        each=options.each,
        settings=settings,
        controls=options.controls,
    )
    with resumable(options.minutes), interruptible() as interruption:
        study.run(interruption, workers=options.workers)
        if options.time or "times" not in study.book:
            say("Timing assemblies.")
            study.book["times"] = measure(study, options.rounds)
        parts = page(study)
    publish("blockwise", "Blocks distilled one by one", parts, options)
    if options.output is not None or not options.quick:
        write_text((options.output or PAGES / "blockwise.md").with_suffix(".csv"), raw(study))


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--work", type=Path, help="where the library, the teacher's answers and results are kept")
    made.add_argument("--library", type=float, default=2.0, help="epochs of the blocks' training")
    made.add_argument("--epochs", type=float, default=2.0, help="of the short distillation")
    made.add_argument("--each", type=int, default=10, help="random assemblies a limit")
    made.add_argument("--controls", type=int, default=3, help="of them also trained without the library, a limit")
    made.add_argument("--workers", type=int, default=2, help="trainings at a time, each of one thread")
    made.add_argument("--minutes", type=float, help="stop after so long, to continue later")
    made.add_argument("--time", action="store_true", help="time assembling again (on a quiet machine)")
    made.add_argument("--rounds", type=int, default=10, help="limits that assembling is timed for")
    options = made.parse_args()
    if options.quick:
        options.library, options.epochs, options.each, options.controls, options.rounds = 0.25, 0.1, 2, 1, 1
    elif options.work is None:
        made.error("give --work, a folder where results are kept")
    return options


def _data(options: argparse.Namespace) -> Dataset:
    whole = load_dataset("fashion-mnist", views=Views(count=2, pad=2, flip=True))
    if not options.quick:
        return whole
    return Dataset.from_tensors(
        whole.train.x[:512],
        whole.train.y[:512],
        val=(whole.val.x[:200], whole.val.y[:200]),
        mean=whole.mean,
        std=whole.std,
        views=whole.views,
        num_classes=whole.num_classes,
    )


if __name__ == "__main__":
    main()
