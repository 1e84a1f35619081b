"""The arms that nas_distill searches: a run for each at each limit, its winner, and the images that it took."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

from inherit_arms.arms import Arm
from inherit_arms.prepared import Prepared
from nas_distill.api import Run, open_run, search
from nas_distill.api.inputs import Inputs
from nas_distill.common.files import write_text
from nas_distill.config import SearchFile, dump_yaml, parse
from nas_distill.data import Dataset
from nas_distill.engine.finalists import best_finalist, read_finalists
from nas_distill.run import facts as names
from nas_distill.run.facts import read_facts
from nas_distill.run.folder import RunFolder

# What every arm has: the teacher's answers, the last training, exports, the look at test data.
_NO_SEARCH = ("teacher store", "full distillation", "export", "evaluation")


class Searches:
    """Runs under ``folder``; what is finished is not searched again, what was begun goes on."""

    def __init__(self, template: dict[str, Any], folder: Path, options: argparse.Namespace) -> None:
        self._template = template
        self._folder = folder
        self._options = options

    def run(self, arm: Arm, limit: float, name: str) -> Run:
        """Search for an arm's student within a share of the teacher's FLOPs.

        Raises:
            InterruptedSearchError: it was asked to stop.
            NasDistillError: what is wrong with the search.
        """
        folder = self._folder / name
        file = folder.with_suffix(".yaml")
        write_text(file, dump_yaml(parse(SearchFile, self._content(arm, limit), source=str(file))))
        if not (RunFolder(folder).exists and read_facts(RunFolder(folder)).finished):
            search(file, folder=folder, resume=True)
        return open_run(folder)

    def _content(self, arm: Arm, limit: float) -> dict[str, Any]:
        content = copy.deepcopy(self._template)
        for section, values in arm.search.items():
            content[section] = {**content[section], **values} if section == "search" else values
        content["budget"] = {"flops": f"{100 * limit:g}%"}
        rate = self._options.rates[arm.start]
        for section in ("score", "final"):
            content[section].setdefault("optimizer", {})["lr"] = rate
        return content


def prepared(run: Run, inputs: Inputs) -> Prepared:
    """Return a finished search's winner, and what it took to find it."""
    winner = best_finalist(read_finalists(run.facts))
    if winner is None:
        raise SystemExit(f"{run.folder.path} has no winner.")
    batch = min(run.config.score.batch_size, len(inputs.data.train))
    steps: dict[str, int] = {}
    for record in run.records:
        if record.reports:
            steps[record.key] = max(report.step for report in record.reports.values())
    looks = 0
    if inputs.cutting is not None:
        # Units are ordered by importance once, and each candidate's batch norm is re-estimated.
        looks = inputs.cutting.config.samples * (1 + len(steps))
    blocks: dict[str, int] = run.facts.get(names.BLOCKS, {})
    timings: dict[str, float] = run.facts[names.TIMINGS]
    return Prepared(
        architecture=winner.architecture,
        shown=shown(winner.architecture),
        costs=winner.costs,
        trained=batch * sum(steps.values()) + blocks.get("presented", 0),
        looks=looks,
        seconds=sum(seconds for phase, seconds in timings.items() if phase not in _NO_SEARCH),
    )


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
    from nas_distill.config import load_search_file

    content: dict[str, Any] = load_search_file(options.file).model_dump(mode="json", exclude_unset=True)
    content["data"] |= {"root": options.root, "views": data.views.recipe()}
    content["teacher"]["store"] = str(store.resolve())
    content["search"]["workers"] = options.workers
    if options.quick:
        content["search"] |= {"trials": 3, "seeds": 2}
        content["score"] |= {"epochs": 0.04}
        content["latency"] |= {"repeats": 5}
    return content
