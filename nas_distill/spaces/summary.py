"""Size of a search space, and its parameters as table rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from typing import Any, NamedTuple

from nas_distill.spaces.architecture import join
from nas_distill.spaces.domains import Choice, Domain, equality_key
from nas_distill.spaces.tree import (
    INACTIVE,
    Each,
    Environment,
    Node,
    Parameter,
    Repeat,
    Scope,
    conditions,
    free_names,
    is_active,
)

# Maximum steps of the exact recursion, about a second, before a bound is returned instead.
_MAX_STEPS = 200_000


@dataclass(frozen=True)
class SpaceSize:
    """The number of distinct architectures, or an upper bound if ``exact`` is False."""

    count: int
    exact: bool = True

    def __str__(self) -> str:
        number = f"{self.count:,}" if self.count < 10**6 else f"{Decimal(self.count):.1e}".replace("e+", "e")
        noun = "architecture" if self.count == 1 else "architectures"
        return f"{number} {noun} (exact)" if self.exact else f"at most {number} {noun}"


def measure(scope: Scope, max_steps: int = _MAX_STEPS) -> SpaceSize:
    """Count the architectures of a space: sums over parameters that others depend on, products over the rest.

    If dependencies require more than ``max_steps`` steps, the result is an upper bound: with every parameter active,
    and every list at its maximum length.
    """
    try:
        return SpaceSize(_Counter(max_steps).count(scope, 0, {}))
    except _StepLimitError:
        return SpaceSize(_bound(scope), exact=False)


class _StepLimitError(Exception):
    pass


class _Counter:
    """The exact recursion, with memoised counts per combination of outer values."""

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._known: dict[tuple[Any, ...], int] = {}
        self._needs: dict[tuple[int, int], tuple[str, ...]] = {}

    def count(self, scope: Scope, start: int, outer: Mapping[str, Any]) -> int:
        """Count the assignments of ``scope[start:]`` given the values of ``outer``."""
        if start == len(scope):
            return 1
        # Only the values that the rest of the scope refers to matter, so only they are in the key.
        values = {name: outer[name] for name in self._needed(scope, start)}
        key = (id(scope), start, *((name, _key(value)) for name, value in values.items()))
        if key not in self._known:
            if len(self._known) >= self._max_steps:
                raise _StepLimitError
            self._known[key] = self._fill(scope, start, outer)
        return self._known[key]

    def _fill(self, scope: Scope, start: int, outer: Mapping[str, Any]) -> int:
        node = scope[start]
        environment = _environment(outer)
        if not is_active(node, environment):
            return self.count(scope, start + 1, {**outer, node.name: INACTIVE})
        if isinstance(node, Parameter):
            if node.name not in self._needed(scope, start + 1):
                return len(node.domain) * self.count(scope, start + 1, outer)
            if len(node.domain) > self._max_steps:
                raise _StepLimitError
            return sum(self.count(scope, start + 1, {**outer, node.name: value}) for value in node.domain.values)
        if isinstance(node, Repeat):
            times = environment.get(node.count) if isinstance(node.count, str) else node.count
            one = self.count(node.of, 0, outer) if isinstance(node.of, tuple) else len(node.of)
            inside = int(one**times)
        else:
            inside = prod(self.count(item, 0, outer) for item in node.items)
        return inside * self.count(scope, start + 1, outer)

    def _needed(self, scope: Scope, start: int) -> tuple[str, ...]:
        key = (id(scope), start)
        if key not in self._needs:
            self._needs[key] = tuple(sorted(free_names(scope[start:])))
        return self._needs[key]


def _bound(scope: Scope) -> int:
    return prod(_bound_of(node) for node in scope)


def _bound_of(node: Node) -> int:
    if isinstance(node, Parameter):
        return len(node.domain)
    if isinstance(node, Each):
        return prod(_bound(item) for item in node.items)
    return int((_bound(node.of) if isinstance(node.of, tuple) else len(node.of)) ** node.max_count)


def _environment(values: Mapping[str, Any]) -> Environment:
    environment = Environment()
    for name, value in values.items():
        environment.set(name, value)
    return environment


def _key(value: Any) -> Any:
    return value if value is INACTIVE else equality_key(value)


class Row(NamedTuple):
    """A parameter as a table row: flat name (``*`` is any entry of a list), kind, values, and conditions."""

    name: str
    kind: str
    values: str
    when: str


def describe(scope: Scope, path: str = "") -> list[Row]:
    """Return one row per parameter and list, in the order of declaration."""
    table: list[Row] = []
    for node in scope:
        here = join(path, node.name)
        when = conditions(node.when)
        if isinstance(node, Parameter):
            table.append(_row(here, node.domain, when))
        elif isinstance(node, Each):
            table.append(Row(here, "list", f"{len(node.items)} entries", when))
            for index, item in enumerate(node.items):
                table.extend(describe(item, join(here, index)))
        else:
            count = node.count if isinstance(node.count, str) else f"{node.count}"
            table.append(Row(here, "list", f"{count} entries", when))
            inside = join(here, "*")
            table.extend(describe(node.of, inside) if isinstance(node.of, tuple) else [_row(inside, node.of, "")])
    return table


def _row(name: str, domain: Domain, when: str) -> Row:
    return Row(name, "choice" if isinstance(domain, Choice) else "integer", str(domain), when)
