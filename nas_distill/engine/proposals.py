"""Proposals: a sampler over an in-memory study with one trial per proposal.

The journal may hold several trials per proposal (an interrupted one and its continuations). The study here holds what
an uninterrupted search would have reported to the sampler, and is rebuilt when a run is resumed. Each ask gets a new
sampler that is seeded by the proposal's index, so proposals depend only on seed, index and outcomes so far.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseGASampler, BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_distill.config import SearchConfig
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.parameters import as_params, suggest
from nas_distill.engine.sampler_storage import SamplerStorage
from nas_distill.engine.samplers import WHERE, Knowledge, Past, PastState, Sampler, find_sampler
from nas_distill.runs.journal import quiet_optuna
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.errors import ConfigError, StorageError, first_line
from nas_distill.utils.seeds import derive, numpy_rng


class Assembler(Protocol):
    """Source of candidates; its proposals depend only on its arguments, so that a resumed search continues the same."""

    @property
    def origin(self) -> str:
        """Origin of its candidates in the journal: ``assembled`` or ``allocated``."""
        ...

    @property
    def exclusive(self) -> bool:
        """True if the search ends with its proposals; otherwise first candidates and sampler follow."""
        ...

    def propose(self, scored: Sequence[tuple[Architecture, float]], seen: Collection[str]) -> Architecture | None:
        """Return the next candidate, None when there are no more.

        Args:
            scored: candidates that were trained to their last rung, with their quality (higher is better), in the order
                of their proposals.
            seen: hashes of all that were proposed so far, which it does not propose again.
        """
        ...


KEPT = 1000  # finished trials that TPE reads, so that a proposal does not take ever longer
_TRIES = 100  # random samples before a small space is enumerated for unseen architectures
_PAST: dict[TrialState, PastState] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}
_STUDY = "study:"  # prefix of study attributes that a sampler sets, among those of a trial


@dataclass(frozen=True)
class Proposal:
    """An architecture in the sampler's terms. ``state`` holds the attributes that the sampler keeps with it."""

    architecture: Architecture
    params: dict[str, Any]
    distributions: dict[str, Any]
    origin: str
    state: dict[str, Any] = field(default_factory=dict)


class Proposals:
    """The proposals of a run, in order; the outcome of each must be told in the end."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        objectives: Objectives,
        pricing: Pricing,
        sampler: Sampler,
        seed: int,
        trials: int,
    ) -> None:
        self._space = space
        self._objectives = objectives
        self._pricing = pricing
        self._past: list[Past] = []
        self._from = sampler
        self._seed = seed
        self._trials = trials
        self._dimensions = len(space.flatten(space.largest()))
        first = self._sampler(0)
        # Only TPE reads what was stopped or is over budget as such; all others read completed trials only.
        self._reads_pruned = isinstance(first, TPESampler)
        maximise = [direction == "maximize" for direction in objectives.directions]
        self._storage = SamplerStorage(maximise, kept=KEPT if self._reads_pruned else None)
        self._breeds = isinstance(first, BaseGASampler)
        with quiet_optuna():
            self._study = optuna.create_study(
                storage=self._storage, directions=list(objectives.directions), sampler=first
            )

    def __len__(self) -> int:
        return len(self._past)

    def ask(self) -> Proposal:
        """Return the sampler's next proposal.

        Raises:
            ConfigError: the sampler raises, or proposes what the space does not have.
        """
        with self._answering():
            self._study.sampler = self._sampler(len(self))
            before = self._noted()
            trial = self._study.ask()
            architecture = self._space.draw(lambda name, domain: suggest(trial, name, domain))
            self._past.append(Past(architecture))
            frozen = self._trial(trial.number)
            for name in filter(_is_shared, list(frozen.system_attrs)):
                # It has parameters that turned out inactive; a resumed search could not know them.
                self._storage.set_trial_system_attr(frozen._trial_id, name, "")
            return Proposal(
                architecture, dict(frozen.params), dict(frozen.distributions), "sampler", self._state(frozen, before)
            )

    def insert(self, architecture: Architecture, origin: str) -> Proposal:
        """Take an architecture that did not come from the sampler as the next proposal."""
        params, distributions = as_params(self._space, architecture)
        with self._answering():
            self._study.sampler = sampler = self._sampler(len(self))
            before = self._noted()
            trial = self._add(architecture, params, distributions)
            if isinstance(sampler, BaseGASampler):
                # Without this it would belong to no generation, and have no offspring.
                sampler.get_trial_generation(self._study, trial)
            return Proposal(architecture, params, distributions, origin, self._state(self._trial(trial.number), before))

    def unseen(
        self, seen: Collection[str], draws: int, among: Sequence[Architecture] | None = None
    ) -> Architecture | None:
        """Return a random architecture whose hash is not in ``seen``; None when there is none.

        ``among``: the unseen architectures to choose from. Without it, in a space of up to ``draws`` architectures it
        is sampled from all unseen ones; in larger ones None may also mean that this many samples held none.
        """
        rng = numpy_rng(self._seed, "unseen", len(self))
        if among is not None:
            return among[int(rng.integers(len(among)))] if among else None
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
        """Take back a proposal of an earlier session, in its place; its outcome is then told as before."""
        own = {name: value for name, value in proposal.state.items() if not name.startswith(_STUDY)}
        self._add(proposal.architecture, proposal.params, proposal.distributions, own)
        for name in proposal.state.keys() - own.keys():
            self._storage.set_study_system_attr(self._study._study_id, name.removeprefix(_STUDY), proposal.state[name])

    def note(
        self, index: int, *, costs: Mapping[str, float] | None = None, scores: Mapping[int, float] | None = None
    ) -> None:
        """Note what is known of a proposal before it ends, for samplers that ask for the history.

        Args:
            index: of the proposal.
            costs: by name.
            scores: quality by rung (higher is better), beside those that were noted before.
        """
        past = self._past[index]
        past.costs.update(costs or {})
        past.scores.update(scores or {})

    def is_open(self, index: int) -> bool:
        """Return whether the outcome of a proposal is still to be told."""
        return not self._trial(index).state.is_finished()

    def tell(
        self,
        index: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        constraints: Mapping[str, float] | None = None,
        repeats: bool = False,
    ) -> None:
        """Tell the sampler the outcome of a proposal: COMPLETE with ``values``, PRUNED, or FAIL (which it ignores).

        A stopped candidate may come with the values it had when it was stopped, one over budget with any.
        ``constraints``: above 0 is violated.
        """
        over = any(excess > 0 for excess in (constraints or {}).values())
        self._past[index].state = "over_budget" if over else _PAST[state]
        # An optuna.Trial to set them by would sample the parameters once more, at the price of another proposal.
        holder = create_trial(state=TrialState.RUNNING, constraints=dict(constraints or {}))
        for name, value in holder.system_attrs.items():
            self._storage.set_trial_system_attr(self._trial(index)._trial_id, name, value)
        if repeats and self._breeds:
            # A second copy would take a place in its generation from another architecture.
            state = TrialState.FAIL
        elif state is TrialState.PRUNED and values is not None and not self._reads_pruned:
            # Otherwise generations of NSGA-II would hardly ever fill, and candidates over budget would be ignored.
            state = TrialState.COMPLETE
        with self._answering(told=index):
            self._study.tell(index, values if state is TrialState.COMPLETE else None, state)

    def _trial(self, index: int) -> FrozenTrial:
        # Not by the study, which builds its list of all trials again each time.
        return self._storage.get_trial(
            self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, index)
        )

    def _add(
        self,
        architecture: Architecture,
        params: dict[str, Any],
        distributions: dict[str, Any],
        state: dict[str, Any] | None = None,
    ) -> FrozenTrial:
        trial = create_trial(
            state=TrialState.RUNNING, params=params, distributions=distributions, system_attrs=state or {}
        )
        self._study.add_trial(trial)
        self._past.append(Past(architecture))
        return self._trial(len(self) - 1)

    def _sampler(self, index: int) -> BaseSampler:
        return self._from.fresh(
            Knowledge(
                seed=derive(self._seed, "proposal", index),
                trials=self._trials,
                dimensions=self._dimensions,
                space=self._space,
                pricing=self._pricing,
                objectives=self._objectives,
                history=self._past,
            )
        )

    def _noted(self) -> dict[str, Any]:
        return dict(self._storage.get_study_system_attrs(self._study._study_id))

    def _state(self, trial: FrozenTrial, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the sampler has noted of a trial, and of the study since ``before``."""
        noted = {f"{_STUDY}{name}": value for name, value in self._noted().items() if before.get(name) != value}
        state = {**_kept(trial), **noted}
        json.dumps(state)  # the journal has to hold it
        return state

    @contextmanager
    def _answering(self, told: int | None = None) -> Iterator[None]:
        """Raise any error of a sampler, which may be the user's own, as a ConfigError."""
        index = len(self) if told is None else told
        try:
            with quiet_optuna():
                yield
        except StorageError:
            raise  # a sampler may count costs, and a full disk is not its fault
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{WHERE}: '{self._from.spec.name}' failed {'at' if told is None else 'when told of'} proposal {index} "
                f"({first_line(error)}). All finished trials are kept; correct it or use another sampler, and resume."
            ) from error


def check_sampler(search: SearchConfig, space: SearchSpace, objectives: Objectives, paths: Sequence[Path] = ()) -> None:
    """Ask the sampler of a search file for one proposal, before anything is counted or trained.

    Raises:
        ConfigError: there is no such sampler, an option is wrong, or it cannot propose for so many objectives.
    """
    found = find_sampler(search.sampler, paths=paths)
    pricing = Pricing(lambda _: dict.fromkeys(objectives.compared, 1.0))
    Proposals(space, objectives=objectives, pricing=pricing, sampler=found, seed=0, trials=search.trials).ask()


def proposal_of(trial: FrozenTrial, architecture: Architecture, origin: str) -> Proposal:
    """Return the proposal that a trial of the journal was made from."""
    return Proposal(architecture, dict(trial.params), dict(trial.distributions), origin, _kept(trial))


def _kept(trial: FrozenTrial) -> dict[str, Any]:
    """Return the attributes that a sampler has set on a trial, except constraints and shared parameters."""
    return {
        name: value
        for name, value in trial.system_attrs.items()
        if not name.startswith("constraints") and not _is_shared(name)
    }


def _is_shared(name: str) -> bool:
    """Return whether an attribute holds the jointly sampled parameters of TPE and GP, kept for other processes."""
    return ":relative_params:" in name
