"""Parameter tree of a search space: parameters, lists, conditions, and traversal in order of declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from nas_distill.spaces.architecture import Scalar, Value, join
from nas_distill.spaces.domains import Domain, equality_key, format_value
from nas_distill.utils.errors import SpaceError, did_you_mean


@dataclass(frozen=True)
class Condition:
    """A condition: ``parameter``, an earlier sibling or one of an outer scope, has one of ``values``."""

    parameter: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Parameter:
    """A parameter with one value from a domain."""

    name: str
    domain: Domain
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Repeat:
    """A list of ``count`` entries (a number, or the name of a parameter), each a group of parameters or a value.

    ``max_count`` is the maximum length of the list.
    """

    name: str
    count: int | str
    max_count: int
    of: Scope | Domain
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Each:
    """A list whose entries have their own parameters."""

    name: str
    items: tuple[Scope, ...]
    when: tuple[Condition, ...] = ()


Node: TypeAlias = Parameter | Repeat | Each
Scope: TypeAlias = tuple[Node, ...]


class _Inactive:
    """The value of an inactive parameter in an environment."""


INACTIVE: Final = _Inactive()


class Environment:
    """The values assigned so far, as visible in a scope: its own first, then those of enclosing scopes."""

    def __init__(self, outer: Environment | None = None) -> None:
        self._outer = outer
        self._own: dict[str, Any] = {}

    def set(self, name: str, value: Any) -> None:
        """Set the value of a parameter of this scope, or ``INACTIVE``."""
        self._own[name] = value

    def get(self, name: str) -> Any:
        """Return the innermost value called ``name``, which exists in every parsed space."""
        if name in self._own:
            return self._own[name]
        assert self._outer is not None, name
        return self._outer.get(name)


def is_active(node: Node, environment: Environment) -> bool:
    """Return True if all conditions of a node are met; a list whose count is inactive is inactive."""
    if isinstance(node, Repeat) and isinstance(node.count, str) and environment.get(node.count) is INACTIVE:
        return False
    for condition in node.when:
        value = environment.get(condition.parameter)
        if value is INACTIVE or equality_key(value) not in {equality_key(wanted) for wanted in condition.values}:
            return False
    return True


def entries(node: Repeat | Each, environment: Environment) -> Sequence[Scope | Domain]:
    """Return the scope or domain of each entry of an active list."""
    if isinstance(node, Each):
        return node.items
    count = environment.get(node.count) if isinstance(node.count, str) else node.count
    return [node.of] * count


def references(node: Node) -> set[str]:
    """Return the names in enclosing scopes to which a node and its content refer."""
    names = {condition.parameter for condition in node.when}
    if isinstance(node, Repeat):
        if isinstance(node.count, str):
            names.add(node.count)
        if isinstance(node.of, tuple):
            names |= free_names(node.of)
    elif isinstance(node, Each):
        for item in node.items:
            names |= free_names(item)
    return names


def free_names(scope: Scope) -> set[str]:
    """Return the free names of a scope, or of the rest of one: references to outer scopes."""
    names: set[str] = set()
    for node in scope:
        names |= references(node)
    return names - {node.name for node in scope}


Choose = Callable[[str, Domain], Any]


def draw(scope: Scope, choose: Choose, path: str = "", outer: Environment | None = None) -> dict[str, Value]:
    """Return nested values from ``choose(flat_name, domain)`` for every active parameter, in order of declaration.

    Raises:
        SpaceError: a value is outside its domain.
    """
    environment = Environment(outer)
    values: dict[str, Value] = {}
    for node in scope:
        here = join(path, node.name)
        if not is_active(node, environment):
            environment.set(node.name, INACTIVE)
        elif isinstance(node, Parameter):
            value = match(node.domain, choose(here, node.domain), here)
            environment.set(node.name, value)
            values[node.name] = value
        else:
            drawn: list[Value] = []
            for index, entry in enumerate(entries(node, environment)):
                name = join(here, index)
                if isinstance(entry, tuple):
                    drawn.append(draw(entry, choose, name, environment))
                else:
                    drawn.append(match(entry, choose(name, entry), name))
            values[node.name] = drawn
    return values


def check(scope: Scope, given: Any, path: str = "", outer: Environment | None = None) -> dict[str, Value]:
    """Return ``given`` with every value converted to the type of its domain (8.0 becomes 8).

    Raises:
        SpaceError: a parameter is missing, unknown, inactive, of a wrong type or length, or outside its domain; the
            message has the path of the first one.
    """
    if not isinstance(given, Mapping):
        raise SpaceError(f"{_named(path)} is {_shown(given)}, but must map these names to values: {_names(scope)}.")
    known = [node.name for node in scope]
    for name in given:
        if name not in known:
            raise SpaceError(f"unknown parameter '{join(path, str(name))}'{did_you_mean(str(name), known)}")
    environment = Environment(outer)
    values: dict[str, Value] = {}
    for node in scope:
        here = join(path, node.name)
        if not is_active(node, environment):
            if node.name in given:
                raise SpaceError(f"parameter '{here}' is inactive here: it is active only {_reason(node)}.")
            environment.set(node.name, INACTIVE)
            continue
        if node.name not in given:
            raise SpaceError(f"parameter '{here}' is missing{_expected(node)}.")
        value = given[node.name]
        if isinstance(node, Parameter):
            values[node.name] = match(node.domain, value, here)
            environment.set(node.name, values[node.name])
            continue
        if not isinstance(value, list | tuple):
            raise SpaceError(f"parameter '{here}' is {_shown(value)}, but must be a list.")
        wanted = entries(node, environment)
        if len(value) != len(wanted):
            raise SpaceError(f"parameter '{here}' has {len(value)} entries, but must have {len(wanted)} here.")
        values[node.name] = [
            check(entry, item, join(here, index), environment)
            if isinstance(entry, tuple)
            else match(entry, item, join(here, index))
            for index, (entry, item) in enumerate(zip(wanted, value))
        ]
    return values


def flat(values: Value, path: str = "") -> dict[str, Value]:
    """Return the scalars of nested values under their flat names, as in ``stages.0.kernel``."""
    if isinstance(values, dict):
        pairs = [(join(path, name), value) for name, value in values.items()]
    elif isinstance(values, list):
        pairs = [(join(path, index), value) for index, value in enumerate(values)]
    else:
        return {path: values}
    return {name: value for here, inner in pairs for name, value in flat(inner, here).items()}


def match(domain: Domain, value: Any, path: str) -> Value:
    """Return the domain's own value that equals ``value``; SpaceError with the path if none does."""
    try:
        return domain.match(value)
    except SpaceError as error:
        raise SpaceError(f"parameter '{path}': {error}") from error


def conditions(when: tuple[Condition, ...]) -> str:
    """Return conditions as a user reads them: ``depth is 2 or 3, and se is true``."""
    return ", and ".join(
        f"{one.parameter} is {' or '.join(format_value(value) for value in one.values)}" for one in when
    )


def _reason(node: Node) -> str:
    if node.when:
        return f"when {conditions(node.when)}"
    return f"when '{node.count}' is" if isinstance(node, Repeat) else "never"


def _expected(node: Node) -> str:
    return f"; allowed: {node.domain}" if isinstance(node, Parameter) else ""


def _named(path: str) -> str:
    return f"parameter '{path}'" if path else "an architecture"


def _names(scope: Scope) -> str:
    return ", ".join(node.name for node in scope)


def _shown(value: Any) -> str:
    return format_value(value) if isinstance(value, str | int | float) or value is None else f"a {type(value).__name__}"
