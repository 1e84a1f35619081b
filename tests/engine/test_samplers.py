import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas_distill.common.errors import ConfigError
from nas_distill.engine.samplers import SAMPLERS, as_params, distribution, make_sampler, suggest
from nas_distill.space import Choice, Domain, IntRange, SearchSpace


def build(**_: Any) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (IntRange(8, 64, 8), IntDistribution(8, 64, step=8)),
        (Choice((24, 8, 16)), IntDistribution(8, 24, step=8)),
        (Choice((5,)), IntDistribution(5, 5)),
        (Choice((8, 16, 64)), CategoricalDistribution((8, 16, 64))),
        (Choice(("relu", None)), CategoricalDistribution(("relu", None))),
        (Choice((False, True)), CategoricalDistribution((False, True))),
        (Choice((True, 1)), CategoricalDistribution(("true", "1"))),
    ],
)
def test_only_evenly_spaced_integers_keep_their_order(domain: Domain, expected: Any) -> None:
    assert distribution(domain) == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_silent_and_draws_values_of_the_domain(name: str) -> None:
    domains: dict[str, Domain] = {
        "width": Choice((24, 8, 16)),
        "odd": Choice((True, 1, 0.5)),
        "act": Choice(("a", None)),
    }
    seen: dict[str, set[Any]] = {parameter: set() for parameter in domains}
    study = optuna.create_study(directions=["maximize", "minimize"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(30):
            study.sampler = make_sampler(name, seed=index, dimensions=3, trials=8)
            trial = study.ask()
            for parameter, domain in domains.items():
                value = suggest(trial, parameter, domain)
                assert any(value is own or (value == own and type(value) is type(own)) for own in domain.values)
                seen[parameter].add(repr(value))
            study.tell(trial, [0.5, float(index)])
    assert len(seen["width"]) == 3
    if name == "random":
        assert seen["odd"] == {"True", "1", "0.5"}


def test_a_fresh_sampler_of_one_seed_proposes_the_same() -> None:
    def draw(seed: int) -> list[int]:
        study = optuna.create_study(
            direction="maximize", sampler=make_sampler("tpe", seed=seed, dimensions=1, trials=9)
        )
        return [study.ask().suggest_int("x", 0, 10**6)]

    assert draw(2**62 + 5) == draw(2**62 + 5) != draw(2**62 + 6)


def test_an_unknown_sampler_is_named_with_the_near_one() -> None:
    with pytest.raises(ConfigError, match="unknown sampler 'nsga'; did you mean 'nsga2'"):
        make_sampler("nsga", seed=0, dimensions=1, trials=1)


def test_an_architecture_is_told_as_the_sampler_would_have_drawn_it() -> None:
    space = SearchSpace.from_dict(
        {"depth": [1, 2, 3], "odd": [True, 1], "blocks": {"repeat": "depth", "of": {"kernel": [3, 7, 9]}}},
        builder=build,
    )
    for index in range(20):
        architecture = space.sample(np.random.default_rng(index))
        params, distributions = as_params(space, architecture)
        assert params.keys() == distributions.keys()
        assert len([name for name in params if name.startswith("blocks")]) == architecture.values["depth"]
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(params)
        trial = study.ask()
        assert space.draw(lambda name, domain, trial=trial: suggest(trial, name, domain)) == architecture
        assert trial.params == params
        assert trial.distributions == distributions
