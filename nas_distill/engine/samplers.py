"""Samplers by name: built-in ones, and a user's own as ``package.module:name``.

A sampler is a function or class that makes an ``optuna.samplers.BaseSampler``. One is made per proposal, so all that it
knows comes from its arguments and from the study. Three arguments are passed by name where its signature has them:
``seed`` (differs by proposal), ``trials`` (candidates to train) and ``dimensions`` (parameters of the largest
architecture). Its other parameters are its options in a search file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
from optuna.samplers import BaseSampler
from pydantic import BaseModel, Field

from nas_distill.config import SamplerConfig
from nas_distill.runs.journal import quiet_optuna
from nas_distill.utils.errors import ConfigError, did_you_mean, first_line
from nas_distill.utils.options import about, check_options, given_options, read_options
from nas_distill.utils.references import is_reference, load_reference

PASSED = ("seed", "trials", "dimensions")
WHERE = "search.sampler"

_BUILT_IN: dict[str, SamplerSpec] = {}
_Make = Callable[..., BaseSampler]


@dataclass(frozen=True)
class SamplerSpec:
    """A registered sampler: ``make`` returns a fresh one, ``options`` are its checked parameters."""

    name: str
    make: _Make
    options: type[BaseModel]

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return about(self.make)


@dataclass(frozen=True)
class Sampler:
    """A sampler with its options."""

    spec: SamplerSpec
    options: dict[str, Any]

    def fresh(self, *, seed: int, trials: int, dimensions: int) -> BaseSampler:
        """Return a sampler whose randomness comes from ``seed`` only, as far as its signature takes one.

        Raises:
            ConfigError: it raises, or it returns something else.
        """
        known = {"seed": seed % 2**32, "trials": trials, "dimensions": dimensions}  # NumPy's older generators: 32 bits
        parameters = inspect.signature(self.spec.make).parameters.values()
        named = {parameter.name for parameter in parameters}
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            named.add("seed")  # of the Optuna sampler that it passes its keywords to
        try:
            with quiet_optuna():
                made = self.spec.make(**self.options, **{key: value for key, value in known.items() if key in named})
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{WHERE}: '{self.spec.name}' cannot be made ({first_line(error)}).") from error
        if not isinstance(made, BaseSampler):
            raise ConfigError(
                f"{WHERE}: '{self.spec.name}' returned {type(made).__name__}, which is not an "
                "optuna.samplers.BaseSampler."
            )
        return made


def sampler(name: str) -> Callable[[_Make], _Make]:
    """Register a function that makes a sampler; its keyword-only parameters but ``PASSED`` are its options."""

    def register(make: _Make) -> _Make:
        _BUILT_IN[name] = SamplerSpec(name, make, read_options(make, reserved=PASSED))
        return make

    return register


def find_sampler(config: SamplerConfig, *, paths: Sequence[Path] = ()) -> Sampler:
    """Return the sampler that a search file names, with its options checked; ``paths``: where modules are looked for.

    Raises:
        ConfigError: there is none, what was found makes no samplers, or an option is wrong.
    """
    spec = _spec(config.name, paths)
    return Sampler(spec, given_options(check_options(spec.options, config.options, f"{WHERE} ({spec.name})")))


def sampler_names() -> tuple[str, ...]:
    """Return the names of all built-in samplers, the default first."""
    return tuple(_BUILT_IN)


def _spec(name: str, paths: Sequence[Path]) -> SamplerSpec:
    if not is_reference(name):
        if name not in _BUILT_IN:
            raise ConfigError(f"{WHERE}: there is no sampler '{name}'{did_you_mean(name, _BUILT_IN)}")
        return _BUILT_IN[name]
    found = load_reference(name, what=f"{WHERE}: the sampler", paths=paths)
    if not callable(found) or (isinstance(found, type) and not issubclass(found, BaseSampler)):
        raise ConfigError(
            f"{WHERE}: '{name}' is neither a subclass of optuna.samplers.BaseSampler nor a function that returns one."
        )
    return SamplerSpec(name, found, read_options(found, reserved=PASSED, keyword_only=False))


@sampler("tpe")
def tpe(
    *,
    seed: int,
    trials: int,
    dimensions: int,
    startup: Annotated[int, Field(ge=0)] | None = None,
    candidates: Annotated[int, Field(ge=1)] = 24,
) -> BaseSampler:
    """Tree-structured Parzen estimators, of all parameters together, within groups that are active together.

    Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011; multi-objective: arXiv:2304.11127.

    Args:
        startup: random proposals before the first model; null takes twice the number of parameters, at most a quarter
            of `trials`, and at least 10
        candidates: drawn per proposal, of which the most promising is proposed
    """
    if startup is None:
        startup = max(10, min(2 * dimensions, trials // 4))
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=startup, n_ei_candidates=candidates
    )


@sampler("nsga2")
def nsga2(
    *,
    seed: int,
    trials: int,
    population: Annotated[int, Field(ge=2)] | None = None,
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.9,
    mutation: Annotated[float, Field(ge=0, le=1)] | None = None,
) -> BaseSampler:
    """NSGA-II, an evolutionary algorithm: children of the least dominated candidates of the generation before.

    Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE Trans. Evol. Comput. 6, 2002.

    Args:
        population: candidates per generation; null takes a quarter of `trials`, between 4 and 20
        crossover: probability that a child has two parents
        mutation: probability that a parameter of a child is drawn again; null takes 1 / number of parameters
    """
    size = max(4, min(20, trials // 4)) if population is None else population
    return optuna.samplers.NSGAIISampler(
        seed=seed, population_size=size, crossover_prob=crossover, mutation_prob=mutation
    )


@sampler("random")
def random(*, seed: int) -> BaseSampler:
    """Independent uniform draws of each parameter."""
    return optuna.samplers.RandomSampler(seed=seed)
