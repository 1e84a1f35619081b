"""What a space is made of: parameters, lists of parameters, and the conditions under which they are active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from nas_distill.space.architecture import Scalar
from nas_distill.space.parameters import Domain, identity


@dataclass(frozen=True)
class Condition:
    """True while ``parameter`` (a sibling declared earlier, or one of an outer scope) has one of ``values``."""

    parameter: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Parameter:
    """One value out of a domain."""

    name: str
    domain: Domain
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Repeat:
    """A list of ``count`` entries (a number, or the name of a parameter), each a group of parameters or a value.

    ``most`` is the greatest length that the list can have.
    """

    name: str
    count: int | str
    most: int
    of: Scope | Domain
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Each:
    """A list whose entries have parameters of their own."""

    name: str
    items: tuple[Scope, ...]
    when: tuple[Condition, ...] = ()


Node: TypeAlias = Parameter | Repeat | Each
Scope: TypeAlias = tuple[Node, ...]


class _Inactive:
    """The value, in an environment, of a parameter that does not apply."""


INACTIVE: Final = _Inactive()


class Environment:
    """The values given so far to parameters, seen from inside a scope: its own first, then those around it."""

    def __init__(self, outer: Environment | None = None) -> None:
        self._outer = outer
        self._own: dict[str, Any] = {}

    def set(self, name: str, value: Any) -> None:
        """Give a parameter of this scope its value, or ``INACTIVE``."""
        self._own[name] = value

    def get(self, name: str) -> Any:
        """Return the nearest value called ``name``; a space that was parsed never asks for one that is not there."""
        if name in self._own:
            return self._own[name]
        assert self._outer is not None, name
        return self._outer.get(name)


def is_active(node: Node, environment: Environment) -> bool:
    """Whether all conditions of a node hold; a list whose count is inactive is inactive with it."""
    if isinstance(node, Repeat) and isinstance(node.count, str) and environment.get(node.count) is INACTIVE:
        return False
    for condition in node.when:
        value = environment.get(condition.parameter)
        if value is INACTIVE or identity(value) not in {identity(wanted) for wanted in condition.values}:
            return False
    return True


def entries(node: Repeat | Each, environment: Environment) -> Sequence[Scope | Domain]:
    """Return what each entry of an active list is made of."""
    if isinstance(node, Each):
        return node.items
    count = environment.get(node.count) if isinstance(node.count, str) else node.count
    return [node.of] * count


def references(node: Node) -> set[str]:
    """Return the names that a node, with all inside it, takes from the scopes around it."""
    names = {condition.parameter for condition in node.when}
    if isinstance(node, Repeat):
        if isinstance(node.count, str):
            names.add(node.count)
        if isinstance(node.of, tuple):
            names |= free(node.of)
    elif isinstance(node, Each):
        for item in node.items:
            names |= free(item)
    return names


def free(scope: Scope) -> set[str]:
    """Return the names that a scope, or the rest of one, takes from outside."""
    names: set[str] = set()
    for node in scope:
        names |= references(node)
    return names - {node.name for node in scope}
