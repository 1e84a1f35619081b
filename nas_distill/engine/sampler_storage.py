"""Storage of the study that a sampler sees: in memory, and for samplers that read all of it bounded to what matters."""

from __future__ import annotations

import copy
from bisect import insort
from collections.abc import Container, Sequence

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from nas_distill.runs.pareto import RunningFront


class SamplerStorage(InMemoryStorage):  # type: ignore[misc]  # Optuna has no types for mypy
    """In-memory storage of one study, whose list of trials has at most about ``kept`` finished ones.

    A sampler such as TPE reads all finished trials for each proposal, which then takes time in proportion to them. The
    list has the feasible trials that no other dominates, and the latest of all others (TPE gives the oldest the least
    weight in any case), by their number, so that it does not depend on the order in which they ended. A single trial
    is still found by its id. ``kept`` None lists all.

    Args:
        maximise: the direction of each objective.
        kept: finished trials that are listed.
    """

    def __init__(self, maximise: Sequence[bool], *, kept: int | None) -> None:
        super().__init__()
        self._kept = kept
        self._finished: list[int] = []  # numbers, rising
        self._unfinished: dict[int, None] = {}
        self._front: RunningFront[int] = RunningFront(maximise)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial and return its id."""
        trial_id: int = super().create_new_trial(study_id, template_trial)
        trial = self.get_trial(trial_id)
        self._unfinished[trial.number] = None
        if trial.state.is_finished():
            self._note(trial)
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set state and values of a trial, and return whether it was updated."""
        updated: bool = super().set_trial_state_values(trial_id, state, values)  # refused for a finished trial
        if updated and state.is_finished():
            self._note(self.get_trial(trial_id))
        return updated

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the listed trials of the given states, by number."""
        if self._kept is None or states == (TrialState.WAITING,) or len(self._finished) <= self._kept:
            found: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy, states)
            return found
        best = set(self._front)
        latest = self._finished[-max(self._kept - len(best), self._kept // 2) :]
        every: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy=False)
        listed = [every[number] for number in sorted({*best, *latest, *self._unfinished})]
        if states is not None:
            listed = [trial for trial in listed if trial.state in states]
        return copy.deepcopy(listed) if deepcopy else listed

    def _note(self, trial: FrozenTrial) -> None:
        del self._unfinished[trial.number]
        insort(self._finished, trial.number)
        feasible = all(excess <= 0 for excess in trial.constraints.values())
        if trial.state is TrialState.COMPLETE and feasible:
            self._front.add(trial.number, trial.values)
