"""Benchmark of losses and strategies: quality of a student under one training budget, and cost per step.

One residual network of 0.9 M FLOPs is taught Fashion-MNIST's embedded subset (12,000 training images, 4 views) by the
shipped teacher, with each loss and under three seeds; then by several teachers together, an assistant, its former
self, beside peers, and with easy samples first. At last, with nothing else on the machine, steps of all losses are
timed in turns, with the store and with the live teacher, and of the student with its peers.

    python benchmarks/losses.py --work FOLDER [--minutes 30]      # about 50 core-minutes
    python benchmarks/losses.py --work FOLDER --time              # the same, with the steps timed again

What is finished is kept in the work folder; started again, it resumes (``--minutes`` stops it in time).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import parser, publish
from losses_page import page
from losses_time import measure, timed_rows
from losses_train import Trainings
from trainings import resumable, say, work_folder

from nas_distill.data import Dataset, load_dataset
from nas_distill.study.interruption import interruptible


def main() -> None:
    options = _options()
    with work_folder(options.work) as options.work:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    trainings = Trainings(_data(options), options.work, seeds=options.seeds, epochs=options.epochs)
    with resumable(options.minutes), interruptible() as interruption:
        trainings.train(interruption, workers=options.workers)
        if options.time or not _timed(trainings):
            say("Timing steps.")
            trainings.book["times"] = measure(trainings, rounds=options.rounds, steps=options.steps)
        parts = page(trainings)
    publish("losses", "Losses and strategies", parts, options)


def _timed(trainings: Trainings) -> bool:
    """Return whether all rows are timed; they are comparable only if timed in turns, so one missing row voids all."""
    return "times" in trainings.book and set(timed_rows()) <= set(trainings.book["times"]["rounds"])


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--work", type=Path, help="where the teacher's answers, students and results are kept")
    made.add_argument("--epochs", type=float, default=6.0, help="of each training")
    made.add_argument("--seeds", type=int, default=3, help="trainings of each row, 2 or more")
    made.add_argument("--workers", type=int, default=2, help="trainings at a time, each of one thread")
    made.add_argument("--minutes", type=float, help="stop after so long, to continue later")
    made.add_argument("--time", action="store_true", help="time the steps again (on a quiet machine)")
    made.add_argument("--rounds", type=int, default=12, help="blocks of steps that each row is timed for")
    made.add_argument("--steps", type=int, default=8, help="steps in a block")
    options = made.parse_args()
    if options.quick:
        options.epochs, options.seeds, options.rounds, options.steps = 1.0, 2, 2, 1
    elif options.work is None:
        made.error("give --work, a folder where results are kept")
    if options.seeds < 2:
        made.error("--seeds must be 2 or more: noise is judged by them")
    return options


def _data(options: argparse.Namespace) -> Dataset:
    whole = load_dataset("fashion-mnist")
    if not options.quick:
        return whole
    assert whole.test is not None  # the embedded subset has one
    return Dataset.from_tensors(
        whole.train.x[:512],
        whole.train.y[:512],
        val=(whole.val.x[:200], whole.val.y[:200]),
        test=(whole.test.x[:200], whole.test.y[:200]),
        mean=whole.mean,
        std=whole.std,
        views=whole.views,
        num_classes=whole.num_classes,
    )


if __name__ == "__main__":
    main()
