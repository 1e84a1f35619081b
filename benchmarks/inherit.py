"""Students cut from the teacher against NVIDIA Model Optimizer's FastNAS and others, with the gain from inheritance.

On Fashion-MNIST with the shipped ResNet teacher, at 10, 20 and 40 % of its FLOPs: (a) FastNAS, (b) uniformly narrower
networks from random weights, (c, d, e) the space ``from_teacher`` searched, blockwise and hybrid, (f) the space
``resnet`` searched from random weights; and as controls (g) FastNAS's widths from random weights and (h) the teacher
uniformly pruned, with a reconstruction of what was cut and (i) without. All may see the same number of training images,
those of their searches included.

    python benchmarks/inherit.py --root /usr/share/datasets/fashion-mnist --work FOLDER --peer PYTHON [--minutes 30]

PYTHON is that of an environment with Model Optimizer, in which nas_distill can be imported:

    python -m venv PEER
    PEER/bin/pip install torch nvidia-modelopt==0.47.0 huggingface_hub requests torchprofile==0.0.4
    PEER/bin/pip install fvcore pydantic PyYAML safetensors
    PEER/bin/pip install --no-deps --editable .

Without it, (a) and (g) are left out. What is finished is kept in the work folder; started again, it continues
(``--minutes`` stops it in time, and the page then shows what is missing).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import ROOT, fashion, parser, publish
from inherit_arms.arms import ARMS, LIMITS
from inherit_arms.page import page
from inherit_arms.study import Study
from trainings import stop_unfinished, time_box, work_folder

from nas_distill.study.interruption import InterruptedSearchError


def main() -> None:
    options = _options()
    with work_folder(options.work) as options.work:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    study = Study(fashion(options.root, options.images), options)
    time_box(options.minutes)
    stopped = False
    try:
        if not options.report:
            study.run()
    except (InterruptedSearchError, KeyboardInterrupt):
        stopped = True
    publish("inherit", "Students cut from the teacher, and what they inherit", page(study), options)
    if stopped:
        stop_unfinished()


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--root", help="folder of the whole set's IDX files; without it, the embedded subset is used")
    made.add_argument("--work", type=Path, help="where searches, students and results are kept")
    made.add_argument("--peer", type=Path, help="Python of an environment with Model Optimizer")
    made.add_argument("--file", type=Path, default=ROOT / "benchmarks" / "inherit.yaml", help="search file")
    made.add_argument("--arms", default="".join(ARMS), help="letters of the arms")
    made.add_argument("--limits", type=float, nargs="+", default=LIMITS, help="shares of the teacher's FLOPs")
    made.add_argument("--images", type=int, default=100_000, help="that an arm may see in all")
    made.add_argument("--seeds", type=int, default=3, help="last trainings of each arm at each limit")
    made.add_argument("--workers", type=int, default=2, help="trainings at a time, each of one thread")
    made.add_argument("--minutes", type=float, help="stop after so long, to continue later")
    made.add_argument("--report", action="store_true", help="write the page of what there is, and train nothing")
    options = made.parse_args()
    if options.work is not None:
        options.work = options.work.resolve()
    if options.peer is not None:
        options.peer = options.peer.absolute()  # not resolved: an environment's Python is a link
    if options.quick:
        options.images, options.seeds, options.limits = 6_000, min(options.seeds, 2), options.limits[1:2]
    elif options.work is None:
        made.error("give --work, a folder where results are kept")
    unknown = set(options.arms) - set(ARMS)
    if unknown:
        made.error(f"unknown arms {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
    return options


if __name__ == "__main__":
    main()
