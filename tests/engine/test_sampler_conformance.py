"""Rules that hold for every sampler: the built-in ones, Optuna's own, and a user's that keeps notes in the study.

``OWN_SAMPLERS=my_package:MySampler python -m pytest tests/engine/test_sampler_conformance.py`` tests others too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_distill.config import SamplerConfig, ScalarConfig, SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives, Scalar
from nas_distill.engine.proposals import Proposal, Proposals
from nas_distill.engine.samplers import Knowledge, find_sampler, sampler_names
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.errors import ConfigError

HERE = __name__


class Climber(BaseSampler):
    """Changes one parameter of the best feasible trial; notes in study and trial how often it was asked."""

    def __init__(self, seed: int, patience: int = 6) -> None:
        self._patience = patience
        self._random = RandomSampler(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        attributes = study._storage.get_study_system_attrs(study._study_id)
        count = attributes.get("climber:asked", 0) + 1
        study._storage.set_study_system_attr(study._study_id, "climber:asked", count)
        study._storage.set_trial_system_attr(trial._trial_id, "climber:turn", count)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        drawn = self._random.sample_independent(study, trial, name, distribution)
        turn = trial.system_attrs.get("climber:turn", 0)
        done = [each for each in study.get_trials(deepcopy=False) if each.state is TrialState.COMPLETE]
        if turn <= self._patience or not done:
            return drawn
        best = min(done, key=lambda each: (sum(each.constraints.values()), -each.values[0]))
        return drawn if name not in best.params or (turn + len(name)) % 4 == 0 else best.params[name]


def drawn_by_nsga(seed: int, **further: Any) -> BaseSampler:
    return optuna.samplers.NSGAIIISampler(seed=seed, population_size=4, **further)


OWN = [f"{HERE}:Climber", f"{HERE}:drawn_by_nsga"]
OPTUNA = ["optuna.samplers:TPESampler", "optuna.samplers:NSGAIISampler", "optuna.samplers:QMCSampler"]
GIVEN = list(filter(None, os.environ.get("OWN_SAMPLERS", "").split(",")))
ALL = [*sampler_names(), *OWN, *OPTUNA, *GIVEN]
LEARNING = [
    name for name in ALL if name not in ("random", "optuna.samplers:QMCSampler", "optuna.samplers:NSGAIISampler")
]
NESTED = {
    "width": {"int": [8, 24], "step": 8},
    "odd": [True, 1, 0.5],
    "act": ["a", None],
    "heads": {"choice": [1, 2, 4], "when": {"act": ["a"]}},
    "depth": [1, 2, 3],
    "blocks": {"repeat": "depth", "of": {"kernel": [3, 7, 9]}},
}
every_sampler = pytest.mark.parametrize("name", ALL)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setitem(__import__("sys").modules, HERE, request.module)


def proposals(name: str, space: SearchSpace, objectives: int = 2, seed: int = 0, **options: Any) -> Proposals:
    found = find_sampler(SamplerConfig.model_validate({"name": name, **options}))
    names = tuple(f"cost{part}" for part in range(objectives - 1))
    minimised = Objectives(names, None if names else Scalar("length", 100.0))
    return Proposals(space, objectives=minimised, pricing=Pricing(lengths), sampler=found, seed=seed, trials=16)


def lengths(architecture: Architecture) -> dict[str, float]:
    size = sum(map(len, architecture.to_json().split(",")))
    return {"length": float(size), **{f"cost{part}": float(size + part) for part in range(2)}}


def nested() -> SearchSpace:
    return SearchSpace.from_dict(NESTED, builder="builtins:dict")


def settle(told: Proposals, proposal: Proposal, index: int, objectives: int = 2) -> None:
    """Every third over budget, every fifth stopped, every seventh failed; values follow from the architecture."""
    costs = lengths(proposal.architecture)
    values = [1 / costs["length"], *(costs[f"cost{part}"] for part in range(objectives - 1))]
    state = {0: TrialState.PRUNED, 1: TrialState.FAIL}.get(index % 7, TrialState.COMPLETE)
    over = 0.5 if index % 3 == 0 else 0.0
    told.note(index, costs=costs, scores={} if over else {0: values[0]})
    told.tell(
        index,
        TrialState.PRUNED if over else state,
        None if state is TrialState.FAIL else values,
        constraints={"x": over},
    )


def architectures(told: Proposals, count: int, objectives: int = 2) -> list[Architecture]:
    found = []
    for index in range(count):
        proposal = told.ask()
        settle(told, proposal, index, objectives)
        found.append(proposal.architecture)
    return found


@every_sampler
def test_what_is_proposed_follows_from_seed_and_trial_number(name: str) -> None:
    first, again, other = (architectures(proposals(name, nested(), seed=seed), 20) for seed in (2, 2, 3))

    assert first == again
    assert first != other
    assert len(set(first)) > 10


@every_sampler
@pytest.mark.parametrize("killed_at", [1, 5, 11, 17, 23])
def test_a_resumed_search_proposes_what_the_uninterrupted_one_did(name: str, killed_at: int) -> None:
    whole = proposals(name, nested())
    told = []
    for index in range(24):
        told.append(whole.insert(nested().smallest(), "first_candidate") if index == 0 else whole.ask())
        if index % 4 != 2:  # some are still open
            settle(whole, told[-1], index)
    resumed = proposals(name, nested())
    for index, proposal in enumerate(told[:killed_at]):
        resumed.restore(proposal)
        if index % 4 != 2:
            settle(resumed, proposal, index)

    assert resumed.ask() == told[killed_at]


@every_sampler
def test_a_search_that_died_is_resumed_as_if_it_had_not(name: str, make_bench: Callable[..., Any]) -> None:
    """Over the journal, in which states and outcomes are written."""

    class Killed(BaseException):
        pass

    def run(die_after: int | None) -> list[tuple[Architecture, str]]:
        search = SearchConfig(trials=12, seeds=2, sampler=SamplerConfig(name=name))
        bench = make_bench(search=search, budget=Budget.parse({"flops": "40k"}))
        if die_after is not None:
            count = itertools.count()

            def dying(architecture: Architecture, share: float) -> float:
                if next(count) == die_after:
                    raise Killed
                return quality(architecture, share)

            quality, bench.evaluator.quality = bench.evaluator.quality, dying
            with pytest.raises(Killed):
                bench.run()
            bench.evaluator.quality = quality
        bench.run()
        latest = {record.index: record for record in bench.records()}
        return [(record.architecture, record.state) for _, record in sorted(latest.items())]

    whole = run(None)
    assert run(9) == whole
    assert run(20) == whole


@every_sampler
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_proposals_are_of_the_space_for_one_to_three_objectives(name: str, objectives: int) -> None:
    space = nested()
    found = architectures(proposals(name, space, objectives), 24, objectives)

    for architecture in found:
        assert space.validate(architecture.values) == architecture
    # Conditional parameters are there where they are active, and only there.
    assert {"heads" in architecture.values for architecture in found} == {True, False}
    assert {len(architecture.values["blocks"]) for architecture in found} == {1, 2, 3}
    if name == "random":
        assert {repr(architecture.values["odd"]) for architecture in found} == {"True", "1", "0.5"}


_over_budget: dict[str, float] = {}


@pytest.mark.parametrize("name", LEARNING)
def test_a_sampler_learns_from_what_is_over_budget(name: str, make_bench: Callable[..., Any]) -> None:
    def over_budget(sampler: str) -> float:
        if sampler in _over_budget:
            return _over_budget[sampler]
        found: list[bool] = []
        for seed in range(3):
            search = SearchConfig(trials=24, seeds=2, sampler=SamplerConfig(name=sampler))
            bench = make_bench(search=search, budget=Budget.parse({"flops": "10k"}), seed=seed)
            bench.run()
            drawn = [record for record in bench.records() if record.origin == "sampler"]
            assert all(record.values is None for record in drawn if record.state == "over_budget")
            found += [record.state == "over_budget" for record in drawn[10:]]
        return _over_budget.setdefault(sampler, sum(found) / len(found))

    assert over_budget(name) < 0.75 * over_budget("random")


@every_sampler
def test_a_whole_search_of_one_reward(name: str, make_bench: Callable[..., Any]) -> None:
    scalar = ScalarConfig(cost="flops", target="40k")
    search = SearchConfig(trials=10, seeds=2, sampler=SamplerConfig(name=name), scalar=scalar)

    assert make_bench(search=search).run(objectives=Objectives.from_config(search)).progress().done == 10


# Options.


def knowledge(**known: Any) -> Knowledge:
    whole = {"seed": 7, "trials": 40, "dimensions": 3, "space": nested(), "objectives": Objectives(("length",))}
    return Knowledge(**{**whole, "pricing": Pricing(lengths), **known})


def test_options_reach_the_sampler() -> None:
    def made(**content: Any) -> Any:
        return find_sampler(SamplerConfig.model_validate(content)).fresh(knowledge())

    assert made(name="tpe")._n_startup_trials == 10
    assert made(name="tpe", startup=3, candidates=5)._n_startup_trials == 3
    assert made(name="nsga2").population_size == 10
    assert made(name="nsga2", population=6).population_size == 6
    assert made(name=f"{HERE}:Climber", patience=2)._patience == 2
    # What a signature passes on by ** is passed on.
    assert made(name=f"{HERE}:drawn_by_nsga", crossover_prob=0.5)._child_generation_strategy._crossover_prob == 0.5


@pytest.mark.parametrize(
    ("content", "stated"),
    [
        ({"name": "tpee"}, "no sampler 'tpee'; did you mean 'tpe'?"),
        ({"name": "tpe", "start": 3}, "unknown key 'start'; did you mean 'startup'?"),
        ({"name": "tpe", "seed": 3}, "unknown key 'seed'"),
        ({"name": "tpe", "startup": -1}, "'startup'"),
        ({"name": "nsga2", "population": True}, "'population'"),
        ({"name": "known_cost", "startup": 1}, "'startup'"),
        ({"name": "known_cost", "pricings": 0}, "'pricings'"),
        ({"name": "known_cost", "history": []}, "unknown key 'history'"),
        ({"name": f"{HERE}:Climber", "patience": "long"}, "'patience' must be a whole number"),
        ({"name": f"{HERE}:Climb"}, "has no 'Climb'; did you mean 'Climber'?"),
        ({"name": "collections:OrderedDict"}, "is neither a subclass of optuna.samplers.BaseSampler"),
        ({"name": "optuna.samplers:TPESampler", "n_startup": 3}, "did you mean 'n_startup_trials'"),
    ],
)
def test_a_wrong_sampler_or_option_is_one_sentence(content: dict[str, Any], stated: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_sampler(SamplerConfig.model_validate(content))
    assert stated in str(raised.value)
    assert str(raised.value).startswith("search.sampler")


class Asking(RandomSampler):
    """Keeps what it asked for by name."""

    last: Any = None

    def __init__(self, seed: int, space: Any, pricing: Any, objectives: Any, history: Any, trials: int) -> None:
        super().__init__(seed)
        Asking.last = (space, pricing, objectives, history, trials)


def test_a_sampler_gets_what_it_asks_for_by_name(make_bench: Callable[..., Any]) -> None:
    search = SearchConfig(trials=8, seeds=3, sampler=SamplerConfig(name=f"{HERE}:Asking"))
    bench = make_bench(search=search, budget=Budget.parse({"flops": "40k"}))
    bench.run()
    space, pricing, objectives, history, trials = Asking.last
    assert space is bench.space
    assert trials == 8
    assert objectives.costs == ("flops",)
    records = bench.records()
    names = {"complete": "complete", "pruned": "stopped", "over_budget": "over_budget"}
    assert [each.state for each in history] == [names[record.state] for record in records]
    for each, record in zip(history, records, strict=True):
        assert each.architecture == record.architecture
        assert each.costs == record.costs == pricing.known(record.architecture)
        assert each.scores == {rung: report.quality for rung, report in record.reports.items()}
        assert pricing.budget.fits(each.costs) == (each.state != "over_budget")


def test_a_resumed_search_gives_a_sampler_the_same_history(make_bench: Callable[..., Any]) -> None:
    search = SearchConfig(trials=8, seeds=3, sampler=SamplerConfig(name=f"{HERE}:Asking"))
    bench = make_bench(search=search, budget=Budget.parse({"flops": "40k"}))
    bench.run()
    before = list(Asking.last[3])
    bench.search = SearchConfig(trials=9, seeds=3, sampler=SamplerConfig(name=f"{HERE}:Asking"))
    bench.run()
    assert list(Asking.last[3])[: len(before)] == before


# A user's sampler that fails.


class Raising(RandomSampler):
    def __init__(self, seed: int, at: str, after: int = 0) -> None:
        super().__init__(seed)
        if at == "make":
            raise RuntimeError("no licence")
        self._at, self._after = at, after

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        if self._at == "ask" and trial.number >= self._after:
            raise SystemExit("no licence")
        if self._at == "outside":
            return 10**6 if isinstance(distribution, optuna.distributions.IntDistribution) else "none such"
        return super().sample_independent(study, trial, name, distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if self._at == "tell":
            raise RuntimeError("no licence")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if self._at == "note":
            study._storage.set_trial_system_attr(trial._trial_id, "mine", {1, 2})


def no_sampler() -> int:
    return 3


@pytest.mark.parametrize("at", ["make", "ask", "outside", "tell", "note"])
def test_a_sampler_that_raises_ends_the_search_in_one_sentence(at: str, make_bench: Callable[..., Any]) -> None:
    sampler = {"name": f"{HERE}:Raising", "at": at, "after": 6}
    bench = make_bench(search=SearchConfig.model_validate({"trials": 12, "seeds": 3, "sampler": sampler}))
    with pytest.raises(ConfigError, match=r"^search\.sampler: '.*:Raising' ") as raised:
        bench.run()
    assert "\n" not in str(raised.value)

    # What was finished is kept, and another sampler goes on with it.
    kept = [record.architecture for record in bench.records()] if at != "make" else []
    bench.search = SearchConfig(trials=12, seeds=3)
    assert bench.run().progress().done == 12
    assert [record.architecture for record in bench.records()][: len(kept)] == kept
    assert len(kept) >= {"make": 0, "ask": 6, "outside": 3, "tell": 1, "note": 3}[at]


def test_what_returns_no_sampler_is_named() -> None:
    with pytest.raises(ConfigError, match="returned int, which is no"):
        find_sampler(SamplerConfig(name=f"{HERE}:no_sampler")).fresh(knowledge())


def test_options_that_no_file_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="which a file can hold"):
        SamplerConfig.model_validate({"name": "tpe", "startup": object()})
