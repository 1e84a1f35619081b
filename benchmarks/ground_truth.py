"""The project's own ground truth: how far does a short distillation tell which student is better after a full one?

Architectures of both shipped spaces, spread over their costs, trained on Fashion-MNIST's embedded subset (12,000
training images) in every way that a search might use: full distillation under two seeds, full training on labels, short
runs of their own, taught and on labels, a run at a constant rate, and a short run with a feature term. Results go
to ``docs/benchmarks/ground_truth.csv`` as they come; stopped, it continues from there, on another day too.
``docs/trust.md`` is written from what is there.

    python benchmarks/ground_truth.py --work FOLDER --minutes 60     # train, and write the page
    python benchmarks/ground_truth.py --page                         # write only the page
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from common import PAGES, ROOT, command_line, parser
from trainings import say, stop_unfinished, time_box
from trust_page import trust_page

from nas_distill.calibration.sampling import (
    CalibrationSource,
    Network,
    Recipe,
    draw_networks,
    recipe,
    short_kind,
    standard_recipes,
)
from nas_distill.calibration.trainings import TrainingTable
from nas_distill.config import SearchFile, parse
from nas_distill.engine.backends.tune import TuneBackend
from nas_distill.engine.evaluator import StudentEvaluator, StudentRun
from nas_distill.engine.work import Work
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import identity_of
from nas_distill.study.calibration import read_networks, write_networks
from nas_distill.study.interruption import InterruptedSearchError, interruptible
from nas_distill.study.observer import Silent
from nas_distill.study.problem import SearchProblem, resolve
from nas_distill.study.signals import teacher_signal
from nas_distill.utils.errors import ConfigError
from nas_distill.utils.files import write_text
from nas_distill.utils.seeds import numpy_rng

SPACES = {"resnet": "3M", "mbconv": "1.2M"}  # trained on a CPU, mbconv is three times as slow per multiply-add
FEATURES = "kd+at"
BUDGETS = (1.0, 3.0)


@dataclass(frozen=True)
class Evaluators:
    """Trains networks of several spaces, with and without the teacher's inner layers: by the beginning of a work's key
    and its kind."""

    plain: Mapping[str, StudentEvaluator]
    features: Mapping[str, StudentEvaluator]

    def start(self, work: Work) -> StudentRun:
        chosen = self.features if f"-{FEATURES}@" in work.key else self.plain
        return chosen[work.key.partition("-")[0]].start(work)


def main() -> None:
    options = _options()
    if options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            options.table, options.work = Path(scratch) / "ground_truth.csv", Path(scratch) / "work"
            _run(options)
        return
    _run(options)


def _run(options: argparse.Namespace) -> None:
    inputs = {space: _inputs(space, options) for space in SPACES}
    stored = options.table.with_name(f"{options.table.stem}_networks.json")
    own = identity_of(**{space: found.identity for space, found in inputs.items()}, count=options.count)
    if not stored.exists():
        options.table.parent.mkdir(parents=True, exist_ok=True)
        write_networks(stored, _draw(inputs, options.count), own)
    # A page of finished trainings does not depend on what a training of today would be.
    networks = read_networks(stored, json.loads(stored.read_text())["identity"] if options.page else own)
    table = TrainingTable(options.table)
    finished = options.page or _train(inputs, networks, table, options)
    text = trust_page(table.readings, networks, inputs["resnet"].config, command=command_line())
    if options.quick or options.output is not None:
        print(text)
    if options.output is not None or not options.quick:
        write_text(options.output or ROOT / "docs" / "trust.md", text)
    if not finished:
        stop_unfinished()


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--work", type=Path, help="where the teacher's answers and checkpoints are kept")
    made.add_argument("--table", type=Path, default=PAGES / "ground_truth.csv", help="where results are added")
    made.add_argument("--count", type=int, default=24, help="architectures of each space")
    made.add_argument("--epochs", type=float, default=10.0, help="of a full training")
    made.add_argument("--workers", type=int, default=2, help="trainings at a time")
    made.add_argument("--minutes", type=float, help="stop after so long, to continue later")
    made.add_argument("--page", action="store_true", help="write the page from what is there, and train nothing")
    options = made.parse_args()
    if options.quick:
        options.count, options.epochs = 8, 0.2
    elif options.work is None and not options.page:
        made.error("give --work, a folder for what is only needed while it trains")
    return options


def _inputs(space: str, options: argparse.Namespace, *, features: bool = False) -> SearchProblem:
    content: dict[str, Any] = {
        "data": "fashion-mnist",
        "teacher": "fashion-resnet",
        "space": space,
        "budget": {"flops": SPACES[space]},
        "score": {"epochs": max(_budgets(options)), "rungs": [1 / 9, 1 / 3, 1.0]},
        "final": {"epochs": options.epochs},
    }
    plain = parse(SearchFile, content, source="ground_truth.py")
    if features:
        terms = [term.model_dump(mode="json") for term in plain.score.training.loss]
        content["score"]["loss"] = [*terms, {"name": "at"}]
    return resolve(parse(SearchFile, content, source="ground_truth.py"))


def _budgets(options: argparse.Namespace) -> tuple[float, ...]:
    """A ninth and a third of the full ten epochs; in a smoke test, less of everything."""
    return tuple(0.02 * epochs for epochs in BUDGETS) if options.quick else BUDGETS


def _draw(inputs: Mapping[str, SearchProblem], count: int) -> list[Network]:
    """Networks of both spaces, taking turns, each in an order of which every beginning is spread over the costs."""
    drawn = []
    for found in inputs.values():
        pricing, rng = found.pricing(), numpy_rng(0, "ground truth")
        drawn.append(draw_networks(found.space, pricing, count=count, by="flops", rng=rng))
    return [network for network in chain.from_iterable(zip_longest(*drawn)) if network is not None]


def _recipes(inputs: SearchProblem, featured: SearchProblem | None, options: argparse.Namespace) -> list[Recipe]:
    config, budgets = inputs.config, _budgets(options)
    found = standard_recipes(config.score.training, config.final.training, budgets)
    if featured is not None:
        short = featured.config.score.training.model_copy(update={"epochs": min(budgets)})
        found.append(recipe(short_kind(FEATURES, min(budgets)), short, budgets))
    return found


def _train(
    inputs: Mapping[str, SearchProblem], networks: list[Network], table: TrainingTable, options: argparse.Namespace
) -> bool:
    """Train what the table lacks; say whether it lacks nothing any more."""
    try:
        featured = {space: _inputs(space, options, features=True) for space in SPACES}
    except ConfigError as error:
        say(f"Without a feature term: {error}")
        featured = {}
    folder = RunFolder(options.work / "run").create()
    source = CalibrationSource(
        networks,
        _recipes(inputs["resnet"], featured.get("resnet"), options),
        table,
        folder.checkpoints,
        seed=0,
        on_done=lambda done, total, text: say(f"{done}/{total}  {text}"),
    )
    if source.done == source.total:
        return True
    evaluators = Evaluators(_evaluators(inputs, folder), _evaluators(featured, folder))
    time_box(options.minutes)
    try:
        with interruptible() as interruption, interruption.stopping(source.stop):
            TuneBackend(workers=options.workers, folder=folder.path).run(source, evaluators)
    except (InterruptedSearchError, KeyboardInterrupt):
        return False
    return not source.stopping


def _evaluators(inputs: Mapping[str, SearchProblem], folder: RunFolder) -> dict[str, StudentEvaluator]:
    return {
        space: StudentEvaluator(
            found.data,
            found.builder,
            teacher_signal(found, folder, Silent(), found.config.score.training, found.config.final.training),
            found.config.device,
            found.paths,
        )
        for space, found in inputs.items()
    }


if __name__ == "__main__":
    main()
