"""Benchmark of a search on Fashion-MNIST within a tenth of the teacher's FLOPs, against its rivals.

A search (benchmarks/fashion.yaml), and against it (a) random search of equal training cost in the same space, with the
same choice of finalists; (b) the teacher's own shape, its widths scaled by one factor until it just fits; (c) the
search's student on hard labels. Each final network is trained under three seeds. Training cost is the sum over trials
of optimiser steps times the student's FLOPs.

    python benchmarks/fashion.py --root /usr/share/datasets/fashion-mnist --work FOLDER [--minutes 30]

Everything that is finished is kept in the work folder; started again, it resumes (``--minutes`` stops it in time).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from common import ROOT, parser, publish
from fashion_report import report
from rivals import Rivals
from trainings import resumable, say

from nas_distill.config import SearchFile, dump_yaml, load_search_file, parse
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import read_metadata
from nas_distill.study import Run, open_run, search
from nas_distill.study.interruption import interruptible
from nas_distill.utils.files import write_text


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    with resumable(options.minutes):
        run = _search(_search_file(options), options.work / "ours")
        with interruptible() as interruption:
            rivals = Rivals(run, options.work, seeds=2 if options.quick else options.seeds)
            rivals.train(interruption)
            parts = report(run, rivals, retime=options.retime)
    publish("fashion", "Fashion-MNIST within a tenth of the teacher's FLOPs", parts, options)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--root", help="folder of the whole set's IDX files; without it, the embedded subset is used")
    made.add_argument("--work", type=Path, required=True, help="where runs and results are kept")
    made.add_argument("--file", type=Path, default=ROOT / "benchmarks" / "fashion.yaml", help="search file")
    made.add_argument("--teacher", help="folder that 'nas-distill teach' wrote, instead of the file's teacher")
    made.add_argument("--trials", type=int, help="of the search, instead of the file's")
    made.add_argument("--epochs", type=float, help="of a full training, instead of the file's")
    made.add_argument("--seeds", type=int, default=3, help="trainings of each final network")
    made.add_argument("--minutes", type=float, help="stop after so long, to continue later")
    made.add_argument("--retime", action="store_true", help="measure latency again (on a quiet machine)")
    return made.parse_args()


def _search_file(options: argparse.Namespace) -> Path:
    """Write the search file as this benchmark runs it into the work folder."""
    content: dict[str, Any] = load_search_file(options.file).model_dump(mode="json", exclude_unset=True)
    if options.root is not None:
        content["data"]["root"] = options.root
    if options.teacher is not None:
        content["teacher"] = {"name": str(Path(options.teacher).resolve())}
    if options.trials is not None:
        content["search"]["trials"] = options.trials
    if options.epochs is not None:
        content["final"]["epochs"] = options.epochs
    if options.quick:
        content["data"]["views"]["count"] = 1
        content["search"] |= {"trials": 5, "seeds": 2}
        content["score"] |= {"epochs": 0.2}
        content["final"] |= {"epochs": 0.4, "count": 2}
        content["latency"] |= {"repeats": 10}
    path: Path = options.work / "search.yaml"
    text = dump_yaml(parse(SearchFile, content, source=str(options.file)))
    if path.exists() and path.read_text(encoding="utf-8") != text:
        sys.exit(
            f"{options.work} was begun with other settings ({path}); give another --work, or the settings of then."
        )
    write_text(path, text)
    return path


def _search(file: Path, folder: Path) -> Run:
    """Return the finished search, made or continued where it is not."""
    if not (RunFolder(folder).exists and read_metadata(RunFolder(folder)).finished):
        say(f"Searching in {folder}.")
        search(file, folder=folder, resume=True)
    return open_run(folder)


if __name__ == "__main__":
    main()
