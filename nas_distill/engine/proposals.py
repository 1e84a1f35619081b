"""Where proposals come from: a sampler over a study in memory that holds one trial a proposal.

The journal may hold several trials for one proposal (an interrupted one and those that went on with it). The study here
does not: it holds what an uninterrupted search would have told the sampler, and is rebuilt so when a run is resumed.
Each ask gets a sampler of its own, seeded by the proposal's index, so what is proposed depends on seed, index and
outcomes so far alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_distill.common.seeds import derive, numpy_rng
from nas_distill.engine.samplers import as_params, make_sampler, suggest
from nas_distill.run.quiet import quiet_optuna
from nas_distill.space import Architecture, SearchSpace

_TRIES = 100  # random draws before a small space is listed for what is unseen


@dataclass(frozen=True)
class Proposal:
    """An architecture to look at, as the sampler sees it. ``state`` is what the sampler keeps with it."""

    architecture: Architecture
    params: dict[str, Any]
    distributions: dict[str, Any]
    origin: str
    state: dict[str, Any] = field(default_factory=dict)


class Proposals:
    """The proposals of a run, in order; each must be settled in the end."""

    def __init__(self, space: SearchSpace, *, directions: Sequence[str], sampler: str, seed: int, trials: int) -> None:
        self._space = space
        self._name = sampler
        self._seed = seed
        self._trials = trials
        self._dimensions = len(space.flatten(space.largest()))
        self._count = 0
        self._storage = optuna.storages.InMemoryStorage()
        with quiet_optuna():
            self._study = optuna.create_study(
                storage=self._storage, directions=list(directions), sampler=self._sampler(0)
            )

    def __len__(self) -> int:
        return self._count

    def ask(self) -> Proposal:
        """Return the sampler's next proposal."""
        self._study.sampler = self._sampler(len(self))
        trial = self._study.ask()
        self._count += 1
        architecture = self._space.draw(lambda name, domain: suggest(trial, name, domain))
        frozen = self._trial(trial.number)
        return Proposal(architecture, dict(frozen.params), dict(frozen.distributions), "sampler", _kept(frozen))

    def insert(self, architecture: Architecture, origin: str) -> Proposal:
        """Take an architecture that did not come from the sampler as the next proposal."""
        params, distributions = as_params(self._space, architecture)
        self._study.sampler = sampler = self._sampler(len(self))
        trial = self._add(params, distributions)
        if isinstance(sampler, optuna.samplers.NSGAIISampler):
            # Without this it would belong to no generation, and have no offspring.
            sampler.get_trial_generation(self._study, trial)
        return Proposal(architecture, params, distributions, origin, _kept(self._trial(trial.number)))

    def unseen(self, seen: Collection[str], draws: int) -> Architecture | None:
        """Return a random architecture whose hash is not in ``seen``; None when there is none.

        Of a space of up to ``draws`` architectures it is drawn from all that are unseen; in larger ones None may also
        mean that so many draws brought nothing new.
        """
        rng = numpy_rng(self._seed, "unseen", len(self))
        for _ in range(min(draws, _TRIES)):
            architecture = self._space.sample(rng)
            if architecture.hash not in seen:
                return architecture
        size = self._space.size()
        if size.exact and size.count <= draws:
            left = [architecture for architecture in self._space.every() if architecture.hash not in seen]
            return left[int(rng.integers(len(left)))] if left else None
        for _ in range(draws - _TRIES):
            architecture = self._space.sample(rng)
            if architecture.hash not in seen:
                return architecture
        return None

    def restore(self, proposal: Proposal) -> None:
        """Take back a proposal of an earlier session, in its place; to be settled as it was."""
        self._add(proposal.params, proposal.distributions, proposal.state)

    def restored(self) -> None:
        """Say that all proposals of earlier sessions are back and settled as far as they were."""
        sampler = self._sampler(0)
        if isinstance(sampler, optuna.samplers.NSGAIISampler):
            # A generation's parents are chosen at its first child, and then kept: choose them now, as they were then.
            trials = self._study.get_trials(deepcopy=False)
            newest = max((sampler.get_trial_generation(self._study, trial) for trial in trials), default=0)
            for generation in range(1, newest + 1):
                sampler.get_parent_population(self._study, generation)

    def is_open(self, index: int) -> bool:
        """Whether a proposal is still to be settled."""
        return not self._trial(index).state.is_finished()

    def settle(
        self,
        index: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        constraints: Mapping[str, float] | None = None,
        repeats: bool = False,
    ) -> None:
        """Tell what became of a proposal: COMPLETE with ``values``, PRUNED, or FAIL (which teaches nothing).

        A stopped candidate may come with the values it had when it was stopped, one over budget with any.
        ``constraints``: above 0 is violated.
        """
        # An optuna.Trial to set them by would sample the parameters once more, at the price of another proposal.
        told = create_trial(state=TrialState.RUNNING, constraints=dict(constraints or {}))
        for name, value in told.system_attrs.items():
            self._storage.set_trial_system_attr(self._trial(index)._trial_id, name, value)
        if repeats and self._name == "nsga2":
            # A second copy would take a place in its generation from another architecture.
            state = TrialState.FAIL
        elif state is TrialState.PRUNED and values is not None and self._name == "nsga2":
            # NSGA-II looks at completed trials only. Under pruning its generations would hardly ever fill, and it would
            # breed over-budget candidates as if none had been seen: constraints count for what is in a generation.
            state = TrialState.COMPLETE
        self._study.tell(index, values if state is TrialState.COMPLETE else None, state)

    def _trial(self, index: int) -> FrozenTrial:
        # Not by the study, whose list of all trials is made anew each time.
        return self._storage.get_trial(
            self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, index)
        )

    def _add(
        self, params: dict[str, Any], distributions: dict[str, Any], state: dict[str, Any] | None = None
    ) -> FrozenTrial:
        trial = create_trial(
            state=TrialState.RUNNING, params=params, distributions=distributions, system_attrs=state or {}
        )
        self._study.add_trial(trial)
        self._count += 1
        return self._trial(self._count - 1)

    def _sampler(self, index: int) -> BaseSampler:
        return make_sampler(
            self._name,
            seed=derive(self._seed, "proposal", index),
            dimensions=self._dimensions,
            trials=self._trials,
        )


def proposal_of(trial: FrozenTrial, architecture: Architecture, origin: str) -> Proposal:
    """Return the proposal that a trial of the journal was made from."""
    return Proposal(architecture, dict(trial.params), dict(trial.distributions), origin, _kept(trial))


def _kept(trial: FrozenTrial) -> dict[str, Any]:
    return {name: value for name, value in trial.system_attrs.items() if name.endswith(":generation")}
