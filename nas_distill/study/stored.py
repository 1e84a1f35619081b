"""Stored runs: a run's records, metadata, search file and problem, loaded from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import nas_distill.runs.journal  # noqa: F401  (first, since it imports Optuna without a warning in notebooks)
from nas_distill.config import FinalConfig, SearchFile, TrainingConfig, load_search_file, parse
from nas_distill.costs.budget import Budget
from nas_distill.costs.runtimes import Runtime, find_runtime
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import metadata_of, read_study
from nas_distill.runs.records import TrialRecord, read_records
from nas_distill.study.problem import SearchProblem, declare_costs, resolve, search_paths
from nas_distill.study.trust import guard, is_own_run, refuse_links
from nas_distill.tasks import find_task
from nas_distill.utils.errors import MissingArgumentError, RunError
from nas_distill.utils.files import plain_file
from nas_distill.utils.references import is_reference, only_known


class StoredRun:
    """The content of a run's folder that a run, its trials and their students share.

    Args:
        path: of the folder.
        problem: of the search, if it is loaded already; else it is loaded at first use.
        trust: code and files that another user's run names may be loaded; the user's own runs do not need it.
        objects: ``data``, ``teacher``, ``space`` and ``builder`` replace objects that the search got from Python.
    """

    def __init__(
        self, path: str | Path, *, problem: SearchProblem | None = None, trust: bool = False, **objects: Any
    ) -> None:
        self.folder = RunFolder(path).require()
        self._problem = problem
        self._trust = trust
        self._objects = objects
        self.refresh()
        if not self.trusted:
            refuse_links(self.folder)

    def refresh(self) -> Self:
        """Read the journal again, and return self."""
        study = read_study(self.folder)
        self.records: list[TrialRecord] = read_records(study)
        self.metadata = metadata_of(study, self.folder.journal)
        return self

    @property
    def trusted(self) -> bool:
        """True if code that the run names may be executed: it was declared trusted, or is this user's own."""
        return self._trust or self._problem is not None or is_own_run(self.folder, self.metadata.base)

    @property
    def config(self) -> SearchFile:
        """The search file as it was resolved."""
        if self._problem is not None:
            return self._problem.config
        if not self.folder.search_yaml.exists():
            raise RunError(f"{self.folder.path} has no {self.folder.search_yaml.name}; resume the search to write it.")
        try:
            config = load_search_file(plain_file(self.folder.path, self.folder.search_yaml.name, links=True))
        except ValueError as error:
            raise RunError(f"{self.folder.search_yaml} cannot be read ({error}).") from error
        declare_costs(config)
        return config

    @property
    def paths(self) -> tuple[Path, ...]:
        """Folders in which relative files and modules of the search are resolved."""
        base = self.folder.path / self.metadata.base
        return (base.resolve(), *search_paths(None))

    @cached_property
    def problem(self) -> SearchProblem:
        """The problem of the search, loaded at first use.

        Raises:
            TrustError: it names code or files of another user.
            RunError: data or teacher differ from those of the search.
        """
        if self._problem is not None:
            return self._problem
        config, base = self.config, self.metadata.base
        with guard(self.folder, config, base, self._objects, trust=self._trust):
            problem = resolve(config, self.paths, plan=self.folder.plan, **self._objects)
            problem.space.builder_function()
        known = self.metadata.identity
        for section, digest in problem.identity.items():
            if section in ("data", "teacher") and known.get(section, digest) != digest:
                raise RunError(
                    f"{self.folder.path} was searched with another {section} than '{getattr(problem, section).name}' "
                    f"as it is now, so its figures are not valid for it; give the {section} of the search."
                )
        return problem

    @property
    def runtime(self) -> Runtime:
        """The deployment runtime of the run's students.

        Raises:
            TrustError: it is code of another user.
        """
        with nullcontext() if self.trusted else only_known(self.folder.path):
            return find_runtime(self.config.latency.runtime, paths=self.paths)

    def problem_if_given(self) -> SearchProblem | None:
        """Return ``problem``; None where it needs objects that came from Python and are not given now."""
        try:
            return self.problem
        except MissingArgumentError:
            return None

    @property
    def budget(self) -> Budget:
        """The run's budget, in base units."""
        return Budget.restore(self.metadata.budget)

    @property
    def task(self) -> str:
        """The name of the task.

        Raises:
            TrustError: it is code of another user.
        """
        task = self.metadata.task
        if is_reference(task):
            with nullcontext() if self.trusted else only_known(self.folder.path):
                find_task(task, where=f"{self.folder.path}: task", paths=self.paths)
        return task

    @property
    def finished(self) -> bool:
        """True if nothing is left to resume."""
        return self.metadata.finished

    def budget_of(self, budget: Mapping[str, Any] | None) -> Budget:
        """Return a budget, written as in a search file, in base units; None gives the run's own."""
        if budget is None:
            return self.budget
        teacher = self.metadata.teacher
        declare_costs(self.config)
        return Budget.parse(budget, None if teacher is None else teacher.costs)

    def final_training(self, epochs: float | None, changes: Mapping[str, Any], *, source: str) -> TrainingConfig:
        """Return the settings of the run's full distillation, with another length and other settings where given.

        Raises:
            ConfigError: a setting is invalid; names ``source``.
        """
        length = {} if epochs is None else {"epochs": epochs}
        return parse(FinalConfig, {**self.config.final.model_dump(), **length, **changes}, source=source).training
