"""The arms that nas_distill searches: a run for each at each limit, its winner, and the images that it took."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inherit_arms.arms import Arm
from inherit_arms.jobs import Job
from inherit_arms.prepared import Prepared
from nas_distill.blockwise.training import STATISTICS
from nas_distill.config import SearchFile, dump_yaml, load_search_file, parse
from nas_distill.data import Dataset
from nas_distill.engine.finalists import best_finalist
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import read_metadata
from nas_distill.runs.metadata import Phase
from nas_distill.study import Run, open_run
from nas_distill.study.problem import SearchProblem
from nas_distill.utils.files import write_text

SCRIPT = Path(__file__).with_name("search.py")
# What every arm has: the teacher's answers, the last training, exports, the look at test data.
_NO_SEARCH = (Phase.TEACHER_STORE, Phase.FULL_DISTILLATION, Phase.EXPORT, Phase.EVALUATION)
LEAST = 0.85
"""Share of a limit that candidates have to use: one student is wanted, and not a front."""


class Searches:
    """Runs under ``folder``, each a process of its own; a started one continues.

    Distilled blocks do not depend on the budget: the first run that needs them makes them, the others take its.
    """

    def __init__(self, template: dict[str, Any], folder: Path, rates: Mapping[str, float]) -> None:
        self._template = template
        self._folder = folder
        self._rates = rates

    def there(self, name: str) -> bool:
        """Return whether a search is finished."""
        folder = RunFolder(self._folder / name)
        return folder.exists and read_metadata(folder).finished

    def run(self, name: str) -> Run:
        """Return a finished search."""
        return open_run(self._folder / name)

    def job(self, arm: Arm, share: float, name: str, library: str | None) -> Job:
        """Return what searches for an arm's student within a share of the teacher's FLOPs.

        ``library``: the finished search whose blocks it takes.
        """
        file = self._folder / f"{name}.yaml"
        write_text(file, dump_yaml(parse(SearchFile, self._content(arm, share), source=str(file))))
        command = [sys.executable, str(SCRIPT), str(file), str(self._folder / name)]
        if library is not None:
            command += ["--library", str(self._folder / library)]
        return Job(f"search {name}", tuple(command), self._folder / f"{name}.log")

    def _content(self, arm: Arm, share: float) -> dict[str, Any]:
        content = copy.deepcopy(self._template)
        for section, values in arm.search.items():
            content[section] = {**content[section], **values} if section == "search" else values
        content["search"] |= {"backend": "inline", "workers": 1}
        content["budget"] = {"flops": {"min": f"{100 * share * LEAST:g}%", "max": f"{100 * share:g}%"}}
        for section in ("score", "final"):
            content[section].setdefault("optimizer", {})["lr"] = self._rates[arm.start]
        return content


def prepared(run: Run, inputs: SearchProblem, library: Run | None) -> Prepared:
    """Return a finished search's winner, and what it took to find it; ``library``: the run that made its blocks."""
    winner = best_finalist(run.metadata.finalists.values())
    if winner is None:
        raise SystemExit(f"{run.folder.path} has no winner.")
    steps: dict[str, int] = {}
    for record in run.records:
        if record.reports:
            steps[record.key] = max(report.step for report in record.reports.values())
    trained = min(run.config.score.training.batch_size, len(inputs.data.train)) * sum(steps.values())
    looks = 0
    seconds = _seconds(run, lambda phase: phase not in (*_NO_SEARCH, Phase.BLOCKWISE))
    if inputs.cutting is not None:
        # Once for the order of units, once for the moments of layers' inputs, and for each candidate's batch norm.
        looks += inputs.cutting.config.samples * (2 + len(steps))
    if library is not None:
        blocks = library.metadata.blocks
        assert blocks is not None  # a library's run has distilled them
        trained += blocks.presented
        # Statistics of the teacher and of the alternatives; and each of these is put in its block's place for a score.
        looks += 2 * STATISTICS + run.config.blockwise.heldout * blocks.alternatives
        seconds += _seconds(library, lambda phase: phase is Phase.BLOCKWISE)
    return Prepared(winner.architecture, shown(winner.architecture), winner.costs, trained, looks, seconds)


def _seconds(run: Run, counts: Callable[[Phase], bool]) -> float:
    return sum(seconds for phase, seconds in run.metadata.timings.items() if counts(phase))


def shown(architecture: dict[str, Any]) -> str:
    """Write an architecture in a table's cell; what is the only value of its mapping needs no name."""

    def write(value: Any) -> str:
        if isinstance(value, dict) and len(value) == 1:
            return write(next(iter(value.values())))
        if isinstance(value, dict):
            return " ".join(write(entry) if key in _PLAIN else f"{key} {write(entry)}" for key, entry in value.items())
        if isinstance(value, list):
            return ", ".join(write(entry) for entry in value)
        return str(value)

    return "; ".join(f"{key} {write(architecture[key])}" for key in sorted(architecture, reverse=True))


_PLAIN = ("kind", "inner")


def template(options: argparse.Namespace, data: Dataset, store: Path) -> dict[str, Any]:
    """Return the search file that all searches share, read from ``options.file``."""
    content: dict[str, Any] = load_search_file(options.file).model_dump(mode="json", exclude_unset=True)
    content["data"] |= {"root": options.root, "views": data.views.recipe()}
    content["teacher"]["store"] = str(store.resolve())
    if options.quick:
        content["search"] |= {"trials": 3, "seeds": 2}
        content["score"] |= {"epochs": 0.04}
        content["blockwise"] = {"trunk": [0.25, 0.5], "widths": [0.25, 0.5], "epochs": 0.04, "heldout": 50}
    return content
