"""The calibration study of a search: ``nas-distill calibrate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nas_distill.calibration.advice import MARGINS, Advice, Stopping, advise, stopping, taught_budgets
from nas_distill.calibration.report import figure, ranking_figure, ranking_table
from nas_distill.calibration.sampling import CalibrationSource, Network, Recipe, draw_networks, standard_recipes
from nas_distill.calibration.scores import CEILING, Ranking, Study, all_scores, rank, read_out
from nas_distill.calibration.trainings import TrainingTable
from nas_distill.costs.latency import LATENCY
from nas_distill.engine.backends import make_backend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.survey import trial_limit
from nas_distill.reports import formatting as words
from nas_distill.reports.formatting import markdown_table
from nas_distill.reports.plots import save_figure
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import identity_of
from nas_distill.runs.metadata import Phase
from nas_distill.spaces import Architecture
from nas_distill.study.interruption import InterruptedSearchError, Interruption, interruptible, run_stoppably
from nas_distill.study.latency import calibrate as calibrate_latency
from nas_distill.study.latency import time_teacher
from nas_distill.study.observer import Observer, Silent
from nas_distill.study.problem import SearchProblem
from nas_distill.study.signals import teacher_signal
from nas_distill.study.start import prepare
from nas_distill.utils.errors import BudgetError, ConfigError, RunError
from nas_distill.utils.files import disk_errors, write_json, write_text
from nas_distill.utils.seeds import numpy_rng

FEWEST = 8
_TABLE, _NETWORKS, _REPORT, _PICTURE, _ADVICE = (
    "trainings.csv",
    "networks.json",
    "calibration.md",
    "calibration.png",
    "advice.yaml",
)


@dataclass(frozen=True)
class Calibration:
    """A finished calibration: its ``folder``, how each score ranks, what stopping would have done, and the advice.

    ``target_noise``: standard deviation of full quality between seeds; ``failed``: how many trainings failed.
    """

    folder: Path
    networks: int
    trainings: int
    failed: int
    target_noise: float | None
    rankings: tuple[Ranking, ...]
    stoppings: tuple[Stopping, ...]
    advice: Advice | None

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.folder / _REPORT

    @property
    def advice_file(self) -> Path:
        """What a search takes by the key ``calibration``."""
        return self.folder / _ADVICE

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "folder": str(self.folder),
            "networks": self.networks,
            "trainings": self.trainings,
            "failed": self.failed,
            "target_noise": self.target_noise,
            "scores": [ranking_dict(entry) for entry in self.rankings],
            "stopping": [
                {"epochs": entry.epochs, "rungs": list(entry.rungs), "margin": entry.margin, **vars(entry.found)}
                for entry in self.stoppings
            ],
            "advice": None if self.advice is None else self.advice.keys,
            "reasons": [] if self.advice is None else list(self.advice.reasons),
        }


def ranking_dict(entry: Ranking) -> dict[str, Any]:
    """Return a ranking as plain values."""
    return {field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "draws"}


def calibrate(
    file: str | Path,
    *,
    count: int = 24,
    whole_range: bool = False,
    folder: str | Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    **settings: Any,
) -> Calibration:
    """Train ``count`` architectures of a search file's space short and in full, and say how one tells the other.

    Args:
        file: a search file: its ``score`` says how long the longest short run is, and its rungs which shorter ones
            there are; its ``final`` is the full distillation.
        count: architectures, spread over the logarithm of the first cost objective; at least 8.
        whole_range: draw from the whole space and not from what is within the budget.
        folder: where results go; beside the file, named after it with ``-calibration``, unless given.
        resume: go on with what is there.
        observer: is told what happens.
        settings: as of ``search``.

    Raises:
        NasDistillError: what is wrong, in a sentence; everything that was finished is kept.
    """
    observer = observer or Silent()
    if count < FEWEST:
        raise ConfigError(f"--count {count} is too few to say anything of a ranking; give at least {FEWEST}.")
    problem, base = prepare(file, settings=settings)
    place = RunFolder(base.with_name(f"{base.name}-calibration") if folder is None else Path(folder))
    _may_write(place, resume)
    with interruptible() as interruption, disk_errors(place.path), place.lock():
        return _Calibrating(problem, place, observer, interruption).run(count, whole_range)


class _Calibrating:
    def __init__(
        self, problem: SearchProblem, folder: RunFolder, observer: Observer, interruption: Interruption
    ) -> None:
        self.problem, self.folder, self.observer, self.interruption = problem, folder, observer, interruption
        self.path = folder.path

    def run(self, count: int, whole_range: bool) -> Calibration:
        """Draw, train, report."""
        self.observer.note(f"Calibration: {self.path}")
        try:
            networks = self._networks(count, whole_range)
            table = TrainingTable(self.path / _TABLE)
            self._train(networks, table)
        except KeyboardInterrupt as error:
            raise InterruptedSearchError(self._how_to_resume()) from error
        return write_calibration(self.problem, self.path, networks, table)

    def _networks(self, count: int, whole_range: bool) -> list[Network]:
        """Return the networks that were drawn when this calibration began, or draw them."""
        stored = self.path / _NETWORKS
        own = {**self.problem.identity, **identity_of(networks=[count, whole_range])}
        if stored.exists():
            return read_networks(stored, own)
        self.observer.phase(Phase.SAMPLING)
        pricing = self._pricing()
        config = self.problem.config
        networks = draw_networks(
            self.problem.space,
            pricing,
            count=count,
            by=config.search.objectives[0],
            rng=numpy_rng(config.seed, "calibration"),
            whole_range=whole_range,
        )
        if len(networks) < FEWEST:
            raise BudgetError(
                f"only {len(networks)} architectures within the budget were found, and a calibration takes at least "
                f"{FEWEST}; widen the budget, or give --whole-range."
            )
        write_networks(stored, networks, own)
        return networks

    def _pricing(self) -> Pricing:
        if LATENCY not in self.problem.asked_costs:
            return self.problem.pricing()
        self.observer.phase(Phase.LATENCY)
        latency, teacher = calibrate_latency(self.problem, self.observer.step), time_teacher(self.problem)
        return self.problem.pricing(latency, None if teacher is None else teacher.p50_ms)

    def _train(self, networks: list[Network], table: TrainingTable) -> None:
        config = self.problem.config
        source = CalibrationSource(
            networks,
            recipes_of(self.problem),
            table,
            self.folder.checkpoints,
            seed=config.seed,
            on_done=lambda done, total, text: self.observer.step(done, total),
        )
        if source.done == source.total:
            return
        self.observer.phase(Phase.TEACHER_STORE)
        signal = teacher_signal(self.problem, self.folder, self.observer, config.score.training, config.final.training)
        evaluator = self.problem.evaluator(signal)
        self.observer.phase(Phase.CALIBRATION)
        self.observer.note(f"{len(networks)} networks, {source.total - source.done} of {source.total} trainings to do.")

        with make_backend(config.search, self.path, trial_limit(config, self.problem.data)) as backend:
            run_stoppably(backend, source, evaluator, self.interruption, self.observer)
        if source.stopping:
            raise InterruptedSearchError(self._how_to_resume())

    def _how_to_resume(self) -> str:
        return f"Stopped. What is finished is kept in {self.path}; the same command with --resume goes on."


def recipes_of(problem: SearchProblem) -> list[Recipe]:
    """Return how each network of a search file's calibration is trained."""
    score, final = problem.config.score, problem.config.final
    budgets = [share * score.training.epochs for share in score.rungs if share > 0]
    return standard_recipes(score.training, final.training, budgets)


def write_calibration(
    problem: SearchProblem, folder: Path, networks: list[Network], table: TrainingTable
) -> Calibration:
    """Work out what a table of trainings says, and write report, picture and advice.

    Raises:
        RunError: too few trainings came through to say anything.
    """
    study = Study(table.readings)
    costs = {network.name: network.costs for network in networks}
    paid = [costs[name] for name in study.networks]
    names = problem.config.search.objectives
    found = [rank(study, score) for score in all_scores(study)]
    advice = advise(study, paid, names)
    if advice is None:
        causes = [entry.cause for entry in study.readings if entry.cause]
        why = f"the first failure was: {causes[0].rstrip('.')}" if causes else "too few architectures were trained"
        raise RunError(f"too few trainings came through to say how scores rank; {why}.")
    calibration = Calibration(
        folder=folder,
        networks=len(study.networks),
        trainings=len({entry.training for entry in study.readings}),
        failed=len(study.failed),
        target_noise=study.noise(),
        rankings=tuple(entry for entry in found if entry is not None),
        stoppings=tuple(all_stoppings(study, paid, names)),
        advice=advice,
    )
    panels = [read_out(study, kind) for kind in taught_budgets(study).values()]
    save_figure(
        ranking_figure(
            study,
            panels,
            title=f"Short and full distillation: {problem.space.name}",
            quality=f"validation {problem.task.quality_name}",
        ),
        folder / _PICTURE,
    )
    write_text(folder / _ADVICE, advice.yaml())
    write_text(calibration.report, _report(problem, study, calibration))
    return calibration


def all_stoppings(study: Study, costs: list[Mapping[str, float]], names: tuple[str, ...]) -> list[Stopping]:
    """Return what each margin would have done at each rung of each kind of short run."""
    found = [
        stopping(study, kind, [epochs], margin, costs, names)
        for kind in taught_budgets(study).values()
        for epochs in study.epochs(kind)
        for margin in MARGINS
        if epochs < study.length(kind)
    ]
    return [entry for entry in found if entry is not None]


def stopping_table(entries: list[Stopping] | tuple[Stopping, ...]) -> str:
    """Return what margins would have done as a Markdown table."""
    rows = [
        [
            f"kd@{entry.epochs:.4g}",
            " and ".join(f"{epochs:.4g}" for epochs in entry.rungs),
            f"{100 * entry.margin:g}",
            f"{entry.found.stopped} of {entry.found.count}",
            f"{entry.found.front_stopped} of {entry.found.front}",
            f"{100 * entry.found.loss:.2f}",
        ]
        for entry in entries
    ]
    headers = ["short run", "rung, epochs", "margin, points", "stopped", "of the front", "largest loss, points"]
    return markdown_table(headers, rows)


def write_networks(path: Path, networks: list[Network], own: Mapping[str, str]) -> None:
    """Keep what was drawn, and a digest of everything that its trainings depend on."""
    entries = [
        {"name": network.name, "costs": dict(network.costs), "architecture": network.architecture.to_dict()}
        for network in networks
    ]
    write_json(path, {"identity": dict(own), "networks": entries})


def read_networks(path: Path, own: Mapping[str, str]) -> list[Network]:
    """Return what was drawn.

    Raises:
        RunError: the file is damaged, or of trainings that do not compare with those of ``own``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["identity"]
        networks = [
            Network(entry["name"], Architecture(entry["architecture"]), entry["costs"]) for entry in content["networks"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read; begin anew in another folder (--folder).") from error
    differ = sorted(name for name in {*known, *own} if known.get(name) != own.get(name))
    if differ:
        raise RunError(
            f"{path.parent} was begun with another {', '.join(repr(name) for name in differ)}, so its trainings do not "
            "compare; undo the change to resume it, or calibrate in another folder (--folder)."
        )
    return networks


def _may_write(folder: RunFolder, resume: bool) -> None:
    if (folder.path / _NETWORKS).exists():
        if not resume:
            raise RunError(
                f"{folder.path} holds a calibration; --resume goes on with it, --folder names another place."
            )
        return
    if folder.path.is_dir() and any(path != folder.lock_file for path in folder.path.iterdir()):
        raise RunError(f"{folder.path} holds something else than a calibration; give an empty folder (--folder).")


def _report(problem: SearchProblem, study: Study, calibration: Calibration) -> str:
    config, advice = problem.config, calibration.advice
    assert advice is not None
    ceiling = next((entry.tau for entry in calibration.rankings if entry.name == CEILING), None)
    trained = calibration.trainings - calibration.failed
    parts = [
        f"# How far short distillations may be trusted: {problem.space.name} on {problem.data.name}",
        f"{calibration.networks} architectures from {words.cost('flops', study.flops.min())} to "
        f"{words.cost('flops', study.flops.max())} multiply-adds, {trained} trainings"
        + (f" ({calibration.failed} more failed)" if calibration.failed else "")
        + f"; a full distillation has {config.final.training.epochs:g} epochs. Quality is "
        f"{problem.task.quality_name} on {len(problem.data.val):,} validation samples. "
        "Between seeds a full distillation differs by "
        f"{words.percent(calibration.target_noise)} "
        f"(standard deviation), and one seed's ranks another's with τ = {figure(ceiling)}: no score can be asked for "
        "more.",
        "![Short and full](calibration.png)",
        "## Advice",
        "\n".join(f"- {reason}" for reason in advice.reasons),
        f"A search takes this by `calibration: {calibration.folder.name}/{_ADVICE}` in its file, or `--calibration`.",
        "## How each score ranks full distillation",
        ranking_table(calibration.rankings),
        "τ: Kendall's τ-b, with its bootstrap interval over architectures; `kd@r` and `ce@r`: a run of r epochs with a "
        "schedule of its own, taught or on labels; `kd-constant`: one run at a constant rate; `full, read at r`: the "
        "full distillation on its way, held against the other seed; TSE: the sum of training losses, its sign turned; "
        "fit: least squares on the score and the logarithms of FLOPs and parameters, each architecture predicted from "
        "the others; regret: what picking the score's best costs.",
        "## What stopping early would have done",
        "Had all reported at the rung before: how many the dominance rule stops, how many of those that end on the "
        "front, and what the worst of these stops costs against what is left.",
        stopping_table(calibration.stoppings),
    ]
    return "\n\n".join(parts) + "\n"
