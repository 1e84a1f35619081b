"""The calibration study of a search file's space: ``nas-distill calibrate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nas_distill.calibration.advice import MARGINS, Advice, StoppingResult, advise, distilled_kinds, replay_stopping
from nas_distill.calibration.report import figure, ranking_figure, ranking_table
from nas_distill.calibration.sampling import CalibrationSource, Network, Recipe, draw_networks, standard_recipes
from nas_distill.calibration.scores import CEILING, Ranking, Study, all_scores, rank, read_out
from nas_distill.calibration.trainings import TrainingTable
from nas_distill.costs.latency import LATENCY
from nas_distill.engine.backends import make_backend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.survey import trial_limit
from nas_distill.reports import formatting
from nas_distill.reports.formatting import markdown_table
from nas_distill.reports.plots import save_figure
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import identity_of
from nas_distill.runs.metadata import Phase
from nas_distill.spaces import Architecture
from nas_distill.study.interruption import InterruptedSearchError, Interruption, interruptible, run_stoppably
from nas_distill.study.latency import fit_latency_predictor, time_teacher
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
    """A finished calibration.

    Attributes:
        folder: of the results.
        networks: architectures that were trained.
        trainings: trainings in the table, failed ones included.
        failed: trainings that failed.
        target_noise: standard deviation of full quality between seeds.
        rankings: the ranking of each score.
        stoppings: the replayed dominance rule, per margin, rung and length.
        advice: for a search.
    """

    folder: Path
    networks: int
    trainings: int
    failed: int
    target_noise: float | None
    rankings: tuple[Ranking, ...]
    stoppings: tuple[StoppingResult, ...]
    advice: Advice | None

    @property
    def report(self) -> Path:
        """Path of the report, in Markdown."""
        return self.folder / _REPORT

    @property
    def advice_file(self) -> Path:
        """Path of the advice, for the key ``calibration`` of a search file."""
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
    """Train ``count`` architectures of a space with short and full schedules, and compare their rankings.

    Args:
        file: a search file. Its ``score`` sets the longest short run, its rungs set the shorter ones, and its ``final``
            is the full distillation.
        count: architectures, spread over the logarithm of the first cost objective; at least 8.
        whole_range: draw from the whole space, not only from architectures within the budget.
        folder: of the results; next to the file, named after it with ``-calibration``, unless given.
        resume: continue the calibration in that folder.
        observer: gets progress.
        settings: as of ``search``.

    Raises:
        NasDistillError: an input is invalid, or a training cannot run; finished trainings are kept.
    """
    observer = observer or Silent()
    if count < FEWEST:
        raise ConfigError(f"--count {count} is too few for a ranking; give at least {FEWEST}.")
    problem, base = prepare(file, settings=settings)
    results = RunFolder(base.with_name(f"{base.name}-calibration") if folder is None else Path(folder))
    _require_writable(results, resume)
    with interruptible() as interruption, disk_errors(results.path), results.lock():
        return _CalibrationRun(problem, results, observer, interruption).run(count, whole_range)


class _CalibrationRun:
    """A calibration in progress in a folder."""

    def __init__(
        self, problem: SearchProblem, folder: RunFolder, observer: Observer, interruption: Interruption
    ) -> None:
        self.problem, self.folder, self.observer, self.interruption = problem, folder, observer, interruption
        self.path = folder.path

    def run(self, count: int, whole_range: bool) -> Calibration:
        """Draw and train networks, then write the results."""
        self.observer.note(f"Calibration: {self.path}")
        try:
            networks = self._networks(count, whole_range)
            table = TrainingTable(self.path / _TABLE)
            self._train(networks, table)
        except KeyboardInterrupt as error:
            raise InterruptedSearchError(self._how_to_resume()) from error
        return write_calibration(self.problem, self.path, networks, table)

    def _networks(self, count: int, whole_range: bool) -> list[Network]:
        """Return the stored networks of this calibration, or draw them."""
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
                f"Only {len(networks)} architectures within the budget were found, and a calibration needs at least "
                f"{FEWEST}; widen the budget, or give --whole-range."
            )
        write_networks(stored, networks, own)
        return networks

    def _pricing(self) -> Pricing:
        if LATENCY not in self.problem.required_costs:
            return self.problem.pricing()
        self.observer.phase(Phase.LATENCY)
        latency, teacher = fit_latency_predictor(self.problem, self.observer.step), time_teacher(self.problem)
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
        return f"Stopped. Finished trainings are kept in {self.path}; resume with the same command and --resume."


def recipes_of(problem: SearchProblem) -> list[Recipe]:
    """Return the recipes of the trainings that each network gets."""
    score, final = problem.config.score, problem.config.final
    budgets = [share * score.training.epochs for share in score.rungs if share > 0]
    return standard_recipes(score.training, final.training, budgets)


def write_calibration(
    problem: SearchProblem, folder: Path, networks: list[Network], table: TrainingTable
) -> Calibration:
    """Analyse a table of trainings, and write report, picture and advice.

    Raises:
        RunError: too few trainings completed for a ranking.
    """
    study = Study(table.readings)
    costs = {network.name: network.costs for network in networks}
    paid = [costs[name] for name in study.networks]
    names = problem.config.search.objectives
    found = [rank(study, score) for score in all_scores(study)]
    advice = advise(study, paid, names)
    if advice is None:
        causes = [entry.cause for entry in study.readings if entry.cause]
        why = f"the first failure was: {causes[0].rstrip('.')}" if causes else "train more architectures"
        raise RunError(f"Too few trainings completed to rank scores; {why}.")
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
    panels = [read_out(study, kind) for kind in distilled_kinds(study).values()]
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


def all_stoppings(study: Study, costs: list[Mapping[str, float]], names: tuple[str, ...]) -> list[StoppingResult]:
    """Return the replayed dominance rule for each margin at each rung of each kind of short run."""
    found = [
        replay_stopping(study, kind, [epochs], margin, costs, names)
        for kind in distilled_kinds(study).values()
        for epochs in study.epochs(kind)
        for margin in MARGINS
        if epochs < study.length(kind)
    ]
    return [entry for entry in found if entry is not None]


def stopping_table(entries: list[StoppingResult] | tuple[StoppingResult, ...]) -> str:
    """Return replayed margins as a Markdown table."""
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
    """Write the drawn networks, and digests of all that their trainings depend on."""
    entries = [
        {"name": network.name, "costs": dict(network.costs), "architecture": network.architecture.to_dict()}
        for network in networks
    ]
    write_json(path, {"identity": dict(own), "networks": entries})


def read_networks(path: Path, own: Mapping[str, str]) -> list[Network]:
    """Read the drawn networks.

    Raises:
        RunError: the file is damaged, or its digests differ from ``own``, so that trainings would not be comparable.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["identity"]
        networks = [
            Network(entry["name"], Architecture(entry["architecture"]), entry["costs"]) for entry in content["networks"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read; start again in another folder (--folder).") from error
    differ = sorted(name for name in {*known, *own} if known.get(name) != own.get(name))
    if differ:
        raise RunError(
            f"{path.parent} was started with another {', '.join(repr(name) for name in differ)}, so trainings are not "
            "comparable; undo the change to resume it, or calibrate in another folder (--folder)."
        )
    return networks


def _require_writable(folder: RunFolder, resume: bool) -> None:
    if (folder.path / _NETWORKS).exists():
        if not resume:
            raise RunError(
                f"{folder.path} contains a calibration; continue it with --resume, or give another folder (--folder)."
            )
        return
    if folder.path.is_dir() and any(path != folder.lock_file for path in folder.path.iterdir()):
        raise RunError(f"{folder.path} is not empty and is not a calibration; give an empty folder (--folder).")


def _report(problem: SearchProblem, study: Study, calibration: Calibration) -> str:
    config, advice = problem.config, calibration.advice
    assert advice is not None
    ceiling = next((entry.tau for entry in calibration.rankings if entry.name == CEILING), None)
    trained = calibration.trainings - calibration.failed
    parts = [
        f"# Rank correlation of short and full distillation: {problem.space.name} on {problem.data.name}",
        f"{calibration.networks} architectures from {formatting.cost('flops', study.flops.min())} to "
        f"{formatting.cost('flops', study.flops.max())} multiply-adds, {trained} trainings"
        + (f" ({calibration.failed} more failed)" if calibration.failed else "")
        + f"; a full distillation has {config.final.training.epochs:g} epochs. Quality is "
        f"{problem.task.quality_name} on {len(problem.data.val):,} validation samples. "
        "The standard deviation of full quality between seeds is "
        f"{formatting.percent(calibration.target_noise)}. Full distillations of two seeds rank each other with "
        f"τ = {figure(ceiling)}, which bounds what a score can reach.",
        "![Short and full](calibration.png)",
        "## Advice",
        "\n".join(f"- {reason}" for reason in advice.reasons),
        f"A search uses this with `calibration: {calibration.folder.name}/{_ADVICE}` in its file, or `--calibration`.",
        "## Rank correlation of each score with full distillation",
        ranking_table(calibration.rankings),
        "τ: Kendall's τ-b, with its bootstrap interval over architectures; `kd@r` and `ce@r`: a run of r epochs with "
        "its own schedule, by distillation or on labels; `kd-constant`: a run at a constant learning rate; `full, read "
        "at r`: the full distillation after r epochs, compared with the other seed; TSE: the negated sum of training "
        "losses; fit: least squares on the score and the logarithms of FLOPs and parameters, each architecture "
        "predicted from the others; regret: the loss of quality by taking the score's best.",
        "## Replay of early stopping",
        "If all others had reported at the rung before: the networks that the dominance rule stops, how many of them "
        "are on the front, and the largest loss of quality by such a stop compared with the networks that remain.",
        stopping_table(calibration.stoppings),
    ]
    return "\n\n".join(parts) + "\n"
