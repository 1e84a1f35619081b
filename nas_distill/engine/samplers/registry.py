"""Samplers by name: built-in ones, and a user's own as ``package.module:name``.

A sampler is a function or class that makes an ``optuna.samplers.BaseSampler``. One is made per proposal, so all that it
knows comes from its arguments and from the study. The fields of ``Knowledge`` are passed by name where its signature
has them. Its other parameters are its options in a search file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler
from pydantic import BaseModel

from nas_distill.config import SamplerConfig
from nas_distill.engine.samplers.knowledge import Knowledge
from nas_distill.runs.journal import quiet_optuna
from nas_distill.utils.errors import ConfigError, did_you_mean, first_line
from nas_distill.utils.options import about, check_options, given_options, read_options
from nas_distill.utils.references import is_reference, load_reference

PASSED = tuple(field.name for field in fields(Knowledge))
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

    def fresh(self, knowledge: Knowledge) -> BaseSampler:
        """Return a sampler that was given what its signature names of ``knowledge``.

        Raises:
            ConfigError: it raises, or it returns something else.
        """
        known = {name: getattr(knowledge, name) for name in PASSED}
        known["seed"] %= 2**32  # NumPy's older generators take 32 bits
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
