"""Registry of losses: built-in ones by name, a user's own by ``package.module:name``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from nas_distill.distill.losses.loss import Loss
from nas_distill.teacher.signal import Reduction
from nas_distill.utils.errors import ConfigError, did_you_mean
from nas_distill.utils.options import about, check_options, read_options
from nas_distill.utils.references import is_reference, load_reference

Made = TypeVar("Made", bound=Callable[..., Any])
# The layers that a loss reads if the search file does not name them.
Layers = Literal["none", "stages", "last", "vector", "tokens", "attention", "last attention"]

_BUILT_IN: dict[str, LossSpec] = {}
_SPEC = "_nas_distill_loss"


@dataclass(frozen=True)
class LossSpec:
    """Specification of a registered loss.

    ``make``: a function (student, teacher, batch, *, options) or a subclass of Loss (shapes, *, options). ``weight``:
    default weight, the paper's for the averaging used here. ``layers``: layers read by default. ``own``: it reads
    layers of the student only. ``reduction``: the reduction of the teacher's features. ``taught`` False: it needs no
    teacher. ``parts``: options that weight its parts, at least one of which must be above 0. ``tasks``: tasks whose
    outputs or labels it accepts; empty for all.
    """

    name: str
    make: Callable[..., Any]
    weight: float
    layers: Layers
    own: bool
    reduction: Reduction
    taught: bool
    parts: tuple[str, ...]
    tasks: tuple[str, ...]
    options: type[BaseModel]

    @property
    def about(self) -> str:
        """First line of the loss's docstring."""
        return about(self.make)

    def check(self, options: dict[str, Any], where: str) -> dict[str, Any]:
        """Return the options, validated and completed with defaults.

        Raises:
            ConfigError: an option is unknown or invalid, or all ``parts`` are 0; the message contains ``where``.
        """
        found = check_options(self.options, options, f"{where} ({self.name})").model_dump()
        if self.parts and not any(found[part] for part in self.parts):
            named = " and ".join(f"'{part}'" for part in self.parts)
            raise ConfigError(
                f"{where} ({self.name}): {named} are 0, so nothing would be learned; set one above 0 or drop the term."
            )
        return found


def loss(
    name: str = "",
    *,
    weight: float = 1.0,
    layers: Layers = "none",
    own: bool = False,
    reduction: Reduction = "full",
    taught: bool = True,
    parts: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> Callable[[Made], Made]:
    """Register a function or a Loss; its keyword-only parameters, with annotations and defaults, are its options.

    A user's own loss needs no name, because the search file names it by ``package.module:name``. It needs the decorator
    only if its properties differ from the defaults.
    """

    def register(made: Made) -> Made:
        known = name or made.__name__
        spec = LossSpec(
            known, made, weight, layers, own, reduction, taught, tuple(parts), tuple(tasks), read_options(made)
        )
        setattr(made, _SPEC, spec)
        if name:
            _BUILT_IN[name] = spec
        return made

    return register


def find_loss(name: str, *, where: str = "loss", paths: Sequence[Path] = ()) -> LossSpec:
    """Return the loss called ``name``, or the user's own of the form ``package.module:name``.

    Raises:
        ConfigError: there is no such loss, or the object is not a loss; the message contains ``where``.
    """
    if is_reference(name):
        found = load_reference(name, what=f"{where}: the loss", paths=paths)
        spec = getattr(found, _SPEC, None)
        if spec is None or (isinstance(found, type) and spec.make is not found):
            if not callable(found) or (isinstance(found, type) and not issubclass(found, Loss)):
                raise ConfigError(f"{where}: '{name}' is neither a function nor a subclass of nas_distill's Loss.")
            return LossSpec(name, found, 1.0, "none", False, "full", True, (), (), read_options(found))
        assert isinstance(spec, LossSpec)
        return spec
    known = _built_in()
    if name not in known:
        raise ConfigError(f"{where}: there is no loss '{name}'{did_you_mean(name, known)}")
    return known[name]


def loss_names() -> list[str]:
    """Return the names of all built-in losses, sorted."""
    return sorted(_built_in())


@cache
def _built_in() -> dict[str, LossSpec]:
    package = importlib.import_module("nas_distill.distill.losses")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return _BUILT_IN
