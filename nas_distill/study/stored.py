"""A run as its folder holds it: the journal's records and metadata, the search file, and what the search was about."""

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
    """What a run, its trials and their students share, read from the run's folder.

    Args:
        path: of the folder.
        problem: what the search is about, where that is at hand; loaded when first needed otherwise.
        trust: the code and files that a run of somebody else names may be loaded; the user's own runs need no trust.
        given: ``data``, ``teacher``, ``space`` and ``builder`` stand in for what the search was given from Python.
    """

    def __init__(
        self, path: str | Path, *, problem: SearchProblem | None = None, trust: bool = False, **given: Any
    ) -> None:
        self.folder = RunFolder(path).require()
        self._problem = problem
        self._trust = trust
        self._given = given
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
        """Whether the code that it names may run: it was declared trusted, or is this user's own."""
        return self._trust or self._problem is not None or is_own_run(self.folder, self.metadata.base)

    @property
    def config(self) -> SearchFile:
        """The search file as it was resolved."""
        if self._problem is not None:
            return self._problem.config
        if not self.folder.search_yaml.exists():
            raise RunError(f"{self.folder.path} holds no {self.folder.search_yaml.name}; a resumed search writes it.")
        try:
            config = load_search_file(plain_file(self.folder.path, self.folder.search_yaml.name, links=True))
        except ValueError as error:
            raise RunError(f"{self.folder.search_yaml} cannot be read ({error}).") from error
        declare_costs(config)
        return config

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders that relative files and modules of the search are looked for in."""
        base = self.folder.path / self.metadata.base
        return (base.resolve(), *search_paths(None))

    @cached_property
    def problem(self) -> SearchProblem:
        """Data, teacher and space of the run, loaded when first needed.

        Raises:
            TrustError: they are a stranger's code or files.
        """
        if self._problem is not None:
            return self._problem
        config, base = self.config, self.metadata.base
        with guard(self.folder, config, base, self._given, trust=self._trust):
            problem = resolve(config, self.paths, plan=self.folder.plan, **self._given)
            problem.space.builder_function()
        known = self.metadata.identity
        for section, digest in problem.identity.items():
            if section in ("data", "teacher") and known.get(section, digest) != digest:
                raise RunError(
                    f"{self.folder.path} was searched with another {section} than '{getattr(problem, section).name}' "
                    "as it is now, so its figures do not hold for that one."
                )
        return problem

    @property
    def runtime(self) -> Runtime:
        """The deployment runtime of the run's students.

        Raises:
            TrustError: it is a stranger's code.
        """
        with nullcontext() if self.trusted else only_known(self.folder.path):
            return find_runtime(self.config.latency.runtime, paths=self.paths)

    def problem_if_given(self) -> SearchProblem | None:
        """Return ``problem``; None where some of them came from Python and are not given now."""
        try:
            return self.problem
        except MissingArgumentError:
            return None

    @property
    def budget(self) -> Budget:
        """The run's own budget, in plain numbers."""
        return Budget.restore(self.metadata.budget)

    @property
    def task(self) -> str:
        """What its networks tell of a sample.

        Raises:
            TrustError: it is a stranger's code.
        """
        task = self.metadata.task
        if is_reference(task):
            with nullcontext() if self.trusted else only_known(self.folder.path):
                find_task(task, where=f"{self.folder.path}: task", paths=self.paths)
        return task

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to resume."""
        return self.metadata.finished

    def budget_of(self, budget: Mapping[str, Any] | None) -> Budget:
        """Return a budget as written in a search file in plain numbers; the run's own for None."""
        if budget is None:
            return self.budget
        teacher = self.metadata.teacher
        declare_costs(self.config)
        return Budget.parse(budget, None if teacher is None else teacher.costs)

    def final_training(self, epochs: float | None, changes: Mapping[str, Any], *, source: str) -> TrainingConfig:
        """Return the run's full distillation, of another length or with other settings where they are given.

        Raises:
            ConfigError: a setting is wrong; names ``source``.
        """
        length = {} if epochs is None else {"epochs": epochs}
        return parse(FinalConfig, {**self.config.final.model_dump(), **length, **changes}, source=source).training
