from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas_distill.engine.parameters import as_params, distribution, suggest
from nas_distill.spaces import Choice, Domain, IntRange, SearchSpace


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


def test_an_architecture_is_inserted_as_the_sampler_would_have_sampled_it() -> None:
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
