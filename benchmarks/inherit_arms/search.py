"""One search of benchmarks/inherit.py, as a process of its own with one thread.

    python search.py FILE FOLDER [--library FOLDER]

It continues where it was stopped. ``--library``: the run whose distilled blocks it takes, since they do not depend on
the budget. Signals stop it cleanly, with exit code 3.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from nas_distill.runs.folder import RunFolder
from nas_distill.study.interruption import InterruptedSearchError, interruptible
from nas_distill.study.observer import Silent
from nas_distill.study.pipeline import Pipeline
from nas_distill.study.start import prepare
from nas_distill.utils.errors import NasDistillError

STOPPED, WRONG = 3, 2


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("file", type=Path)
    made.add_argument("folder", type=Path)
    made.add_argument("--library", type=Path)
    options = made.parse_args()
    try:
        _search(options.file, RunFolder(options.folder), options.library)
    except InterruptedSearchError:
        sys.exit(STOPPED)
    except NasDistillError as error:
        print(error, file=sys.stderr)
        sys.exit(WRONG)


def _search(file: Path, folder: RunFolder, library: Path | None) -> None:
    if library is not None and not folder.blocks.exists():
        part = folder.blocks.with_name(f".{folder.blocks.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(RunFolder(library).blocks, part)
        part.rename(folder.blocks)
    inputs, _ = prepare(file, settings={})
    with interruptible() as interruption:
        Pipeline(inputs, folder, Silent(), interruption).run()


if __name__ == "__main__":
    main()
