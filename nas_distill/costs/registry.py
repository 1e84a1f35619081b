"""Registry of costs: built-in ones by name, and the user's own as ``package.module:name``.

Lower is better for every cost. Register the reciprocal of a quantity of which more is better, such as throughput.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from nas_distill.utils.errors import BudgetError, ConfigError, did_you_mean
from nas_distill.utils.options import about, check_options, read_options
from nas_distill.utils.references import is_reference, last_name, load_reference

Family = Literal["count", "bytes", "time", "other"]
# The first arguments of a cost: the module; the module and an example input; the recorded operations of one pass.
Reads = Literal["module", "example", "trace"]
Made = TypeVar("Made", bound=Callable[..., Any])

_FAMILIES: dict[str, Family] = {"": "count", "B": "bytes", "ms": "time"}
_BUILT_IN: dict[str, CostSpec] = {}
_DECLARED: dict[str, CostInfo] = {}
_SPEC = "_nas_distill_cost"


@dataclass(frozen=True)
class CostInfo:
    """Facts about a cost that reports and budgets need.

    Attributes:
        name: in search files, journals and tables.
        unit: of its plain number: empty for a count, ``B``, ``ms``, or any other word.
        label: its name in a line of text.
        axis: title of a plot's axis.
        additive: whether a network's cost is the sum over its parts.
        measured: whether it needs a machine without other load; it is then predicted for candidates and measured for
            finalists.
    """

    name: str
    unit: str = ""
    label: str = ""
    axis: str = ""
    additive: bool = False
    measured: bool = False

    @property
    def family(self) -> Family:
        """The family of suffixes that an amount may be written with."""
        return _FAMILIES.get(self.unit, "other")


@dataclass(frozen=True)
class CostSpec:
    """A registered cost.

    ``function`` returns a finite number of at least 0 in the unit of ``info``; ``reads`` names its first arguments;
    ``options`` are its keyword-only parameters.
    """

    info: CostInfo
    function: Callable[..., Any]
    reads: Reads
    options: type[BaseModel]

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return about(self.function)

    def check(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the options, checked and completed.

        Raises:
            ConfigError: unknown option or invalid value; names ``where``.
        """
        return check_options(self.options, given, f"{where} ({self.info.name})").model_dump()


def cost(
    name: str = "",
    *,
    unit: str = "",
    label: str = "",
    axis: str = "",
    reads: Reads = "example",
    additive: bool = False,
    measured: bool = False,
) -> Callable[[Made], Made]:
    """Register a function as a cost; its keyword-only parameters, with annotations and defaults, are its options.

    Its first arguments follow from ``reads``: ``(module, example)``, where ``example`` is one input (1, *input_shape);
    ``(module,)``; or ``(trace,)``, the operations of one forward pass (``costs.tracing.Trace``), recorded once for all
    costs that read them. The module is in eval mode. A user's own cost does not need a name, since the search file
    names it ``package.module:name``; it needs the decorator only to change a default.
    """

    def register(made: Made) -> Made:
        known = name or made.__name__
        info = CostInfo(known, unit, label or known, axis or label or known, additive, measured)
        spec = CostSpec(info, made, reads, read_options(made))
        setattr(made, _SPEC, spec)
        if name and made.__module__.startswith(f"{__package__}."):
            _BUILT_IN[name] = spec
        return made

    return register


def find_cost(name: str, *, where: str = "search.costs", paths: Sequence[Path] = ()) -> CostSpec:
    """Return the cost called ``name``, or the user's own of the form ``package.module:name``.

    Raises:
        BudgetError: unknown built-in cost; suggests a similar name.
        ConfigError: the user's own cannot be imported, or is not a function; names ``where``.
    """
    if not is_reference(name):
        known = _built_in()
        if name not in known:
            raise BudgetError(f"unknown cost '{name}'{did_you_mean(str(name), known)}")
        return known[name]
    found = load_reference(name, what=f"{where}: the cost", paths=paths)
    if not callable(found) or isinstance(found, type):
        raise ConfigError(f"{where}: '{name}' is not a function, so it cannot be a cost.")
    spec, short = getattr(found, _SPEC, None), last_name(name)
    if not isinstance(spec, CostSpec):
        return CostSpec(CostInfo(short, label=short, axis=short), found, "example", read_options(found))
    if spec.info.measured or spec.info.additive:
        raise ConfigError(f"{where}: '{name}' is registered as measured or additive, which only built-in costs can be.")
    return replace(spec, info=replace(spec.info, name=short))  # the search file's name takes precedence


def cost_names() -> tuple[str, ...]:
    """Return the names of all built-in costs."""
    return tuple(_built_in())


def counted_names() -> tuple[str, ...]:
    """Return the names of the built-in costs that are counted exactly, for every candidate."""
    return tuple(name for name, spec in _built_in().items() if not spec.info.measured)


def additive_names() -> tuple[str, ...]:
    """Return the names of the built-in costs that are sums over parts of a network."""
    return tuple(name for name, spec in _built_in().items() if spec.info.additive)


def declare_cost(name: str, unit: str = "") -> None:
    """Register name and unit of a user's own cost for budgets and reports of this process, without loading its code.

    If two runs in one process declare different units for one name, its amounts are written without a unit.
    """
    known = _DECLARED.get(name)
    _DECLARED[name] = CostInfo(name, unit if known is None or known.unit == unit else "", name, name)


def cost_info(name: str) -> CostInfo:
    """Return the facts about a built-in or declared cost.

    Raises:
        BudgetError: unknown cost; suggests a similar name.
    """
    built_in = _built_in()
    if name in built_in:
        return built_in[name].info
    if name not in _DECLARED:
        raise BudgetError(f"unknown cost '{name}'{did_you_mean(str(name), built_in)}")
    return _DECLARED[name]


def describe_cost(name: str) -> CostInfo:
    """Return the facts about a cost for a report; an unknown cost has only its name."""
    try:
        return cost_info(name)
    except BudgetError:
        return CostInfo(name, label=name, axis=name)


SUFFIXES: dict[Family, dict[str, float]] = {
    "count": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "bytes": {
        **{"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40},
        **{"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
    },
    "time": {"ms": 1.0, "us": 1e-3, "s": 1e3},
}
"""Suffixes of amounts by family, with their values in the plain unit of the cost. Other units have no multiples."""

_WRITTEN: dict[Family, tuple[str, ...]] = {
    "count": ("", "k", "M", "G", "T"),
    "bytes": ("B", "KiB", "MiB", "GiB", "TiB"),
}


def format_cost(name: str, value: float) -> str:
    """Write a cost with three significant digits and its unit: ``"1.25 M"``, ``"512 KiB"``, ``"0.48 ms"``.

    ``parse_amount`` reads it back, to those digits. Times are in ms, or in us below 0.01 ms. An unknown cost is written
    without a unit.
    """
    value = float(value)
    try:
        info = cost_info(name)
    except BudgetError:
        return f"{value:.4g}"
    if not math.isfinite(value):
        return f"{value} {info.unit}".rstrip()
    if info.family == "other":
        return f"{_digits(value)} {info.unit}"
    sizes = SUFFIXES[info.family]
    if info.family == "time":
        suffix = "us" if 0 < abs(value) < 0.01 else "ms"
        return f"{_digits(value / sizes[suffix])} {suffix}"
    suffix = _WRITTEN[info.family][0]
    for larger in _WRITTEN[info.family][1:]:
        # 999 999 rounds to 1000 k; comparing the rounded number turns it into 1 M.
        if float(_digits(value / sizes[suffix])) * sizes[suffix] < sizes[larger]:
            break
        suffix = larger
    return f"{_digits(value / sizes[suffix])} {suffix}".rstrip()


def _digits(value: float) -> str:
    """Write three significant digits, larger numbers as integers, and an exponent only below 1e-4."""

    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.3e}"


@cache
def _built_in() -> dict[str, CostSpec]:
    package = importlib.import_module(__package__)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return _BUILT_IN
