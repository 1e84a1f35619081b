"""Notation of space files: parsing of plain values to a parameter tree, and its inverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_distill.spaces.architecture import join
from nas_distill.spaces.domains import Choice, Domain, IntRange, format_value
from nas_distill.spaces.tree import Condition, Each, Node, Parameter, Repeat, Scope
from nas_distill.utils.errors import SpaceError, did_you_mean

MAX_VALUES = 100_000
"""Maximum number of values of the largest architecture."""

_KEYS = {
    "choice": ("choice", "when"),
    "int": ("int", "step", "when"),
    "repeat": ("repeat", "of", "when"),
    "each": ("each", "when"),
}


class _Names:
    """Names visible inside a scope: those declared earlier in it, then those of enclosing scopes."""

    def __init__(self, later: list[str], outer: _Names | None) -> None:
        self._nodes: dict[str, Node] = {}
        self._later = list(later)
        self._outer = outer

    def declare(self, node: Node) -> None:
        self._nodes[node.name] = node
        self._later.remove(node.name)

    def find(self, name: str, path: str, key: str) -> Parameter:
        """Return the parameter called ``name``; ``path`` and ``key`` name the reference in errors."""
        node = self._nodes.get(name)
        if node is None:
            if name in self._later:
                raise SpaceError(f"parameter '{path}': '{key}' refers to '{name}', which is not declared before it.")
            if self._outer is None or name not in self._outer.visible():
                near = did_you_mean(name, self.visible())
                raise SpaceError(f"parameter '{path}': '{key}' refers to unknown parameter '{name}'{near}")
            return self._outer.find(name, path, key)
        if not isinstance(node, Parameter):
            raise SpaceError(f"parameter '{path}': '{key}' refers to '{name}', which is a list, not a single value.")
        return node

    def visible(self) -> list[str]:
        outer = self._outer.visible() if self._outer else []
        return [*self._nodes, *self._later, *outer]


def parse(specs: Mapping[str, Any]) -> Scope:
    """Parse the parameters of a space.

    Raises:
        SpaceError: a parameter is invalid; the message has the path of the first one, and the cause.
    """
    scope = _scope(specs, "", None)
    most = _extent(scope)
    if most > MAX_VALUES:
        raise SpaceError(f"the largest architecture would have {most:,} values; at most {MAX_VALUES:,} are allowed.")
    return scope


def dump(scope: Scope) -> dict[str, Any]:
    """Return the specification from which ``parse`` reads the same tree."""
    return {node.name: _spec(node) for node in scope}


def _scope(specs: Any, path: str, outer: _Names | None) -> Scope:
    if not isinstance(specs, Mapping):
        raise SpaceError(f"{_place(path)} must map names of parameters to their values, but is {_shown(specs)}.")
    if not specs:
        raise SpaceError(f"{_place(path)} has no parameters.")
    for name in specs:
        if not isinstance(name, str) or not name.isidentifier() or name in _KEYS:
            raise SpaceError(
                f"parameter '{join(path, str(name))}' needs another name: it is passed as a keyword, so it must be an "
                f"identifier and not one of {', '.join(_KEYS)}."
            )
    names = _Names(list(specs), outer)
    nodes: list[Node] = []
    for name, spec in specs.items():
        node = _node(name, spec, join(path, name), names)
        names.declare(node)
        nodes.append(node)
    return tuple(nodes)


def _node(name: str, spec: Any, path: str, names: _Names) -> Node:
    kind = _kind(spec, path)
    if kind is None or kind in ("choice", "int"):
        when = _when(spec, path, names) if kind else ()
        return Parameter(name, _domain(spec, kind, path), when)
    when = _when(spec, path, names)
    if kind == "each":
        items = spec["each"]
        if not isinstance(items, list | tuple) or not items:
            raise SpaceError(f"parameter '{path}': 'each' must list the parameters of every entry.")
        return Each(name, tuple(_scope(item, join(path, index), names) for index, item in enumerate(items)), when)
    if "of" not in spec:
        raise SpaceError(f"parameter '{path}': 'repeat' needs 'of', the parameters of one entry.")
    count, most = _count(spec["repeat"], path, names)
    of = spec["of"]
    inner = _kind(of, path) if not isinstance(of, Mapping) or set(of) & set(_KEYS) else "group"
    if inner == "group":
        return Repeat(name, count, most, _scope(of, path, names), when)
    if inner not in (None, "choice", "int"):
        raise SpaceError(f"parameter '{path}': 'of' is a list itself; name the inner list, as in of: {{inner: ...}}.")
    if isinstance(of, Mapping) and "when" in of:
        raise SpaceError(f"parameter '{path}': entries of a list have no conditions; put 'when' beside 'repeat'.")
    return Repeat(name, count, most, _domain(of, inner, path), when)


def _kind(spec: Any, path: str) -> str | None:
    """Return the keyword of a specification's long form; None for the short form."""
    if isinstance(spec, list | tuple | range | Choice | IntRange):
        return None
    if not isinstance(spec, Mapping):
        raise SpaceError(
            f"parameter '{path}' is {_shown(spec)}; list its values, as in [{_example(spec)}], "
            "or put fixed values under 'arguments'."
        )
    kinds = [key for key in _KEYS if key in spec]
    if len(kinds) > 1:
        raise SpaceError(f"parameter '{path}' has '{kinds[0]}' and '{kinds[1]}'; give only one of them.")
    if not kinds:
        known = sorted({key for keys in _KEYS.values() for key in keys})
        for key in spec:
            if key not in known:
                raise SpaceError(f"parameter '{path}': unknown key '{key}'{did_you_mean(str(key), known)}")
        raise SpaceError(f"parameter '{path}' needs one of the keys {', '.join(_KEYS)}.")
    for key in spec:
        if key not in _KEYS[kinds[0]]:
            raise SpaceError(f"parameter '{path}': unknown key '{key}'{did_you_mean(str(key), _KEYS[kinds[0]])}")
    return kinds[0]


def _domain(spec: Any, kind: str | None, path: str) -> Domain:
    if isinstance(spec, Choice | IntRange):
        return spec
    values = spec[kind] if kind else spec
    if not isinstance(values, list | tuple | range):
        raise SpaceError(f"parameter '{path}': '{kind}' must be a list, but is {_shown(values)}.")
    try:
        if kind != "int":
            return Choice(tuple(values))
        if len(values) != 2:
            raise SpaceError("'int' takes [low, high].")
        return IntRange(values[0], values[1], spec.get("step", 1))
    except SpaceError as error:
        raise SpaceError(f"parameter '{path}': {error}") from error


def _count(count: Any, path: str, names: _Names) -> tuple[int | str, int]:
    if isinstance(count, str):
        domain = names.find(count, path, "repeat").domain
        # Only the ends of a range are checked, since it may be long.
        ends = (domain.low, domain.high) if isinstance(domain, IntRange) else domain.values
        numbers = [value for value in ends if isinstance(value, int)]
        if not domain.integers or min(numbers) < 0:
            raise SpaceError(
                f"parameter '{path}': 'repeat' refers to '{count}', whose values must be integers of at least 0."
            )
        return count, max(numbers)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SpaceError(
            f"parameter '{path}': 'repeat' is {_shown(count)}; give a positive integer or the name of a parameter."
        )
    return count, count


def _extent(scope: Scope) -> int:
    """Return the number of values of an architecture whose lists all have their maximum length."""
    return sum(_extent_of(node) for node in scope)


def _extent_of(node: Node) -> int:
    if isinstance(node, Parameter):
        return 1
    if isinstance(node, Each):
        return sum(_extent(item) for item in node.items)
    return node.max_count * (_extent(node.of) if isinstance(node.of, tuple) else 1)


def _when(spec: Mapping[str, Any], path: str, names: _Names) -> tuple[Condition, ...]:
    if "when" not in spec:
        return ()
    when = spec["when"]
    if not isinstance(when, Mapping) or not when:
        raise SpaceError(f"parameter '{path}': 'when' must map names of parameters to values, but is {_shown(when)}.")
    found = []
    for name, wanted in when.items():
        domain = names.find(str(name), path, "when").domain
        options = wanted if isinstance(wanted, list | tuple) else [wanted]
        if not options:
            raise SpaceError(f"parameter '{path}': 'when' gives no value for '{name}'; give at least one.")
        try:
            found.append(Condition(str(name), tuple(domain.match(option) for option in options)))
        except SpaceError as error:
            raise SpaceError(
                f"parameter '{path}': 'when' gives '{name}' a value that it cannot have: {error}"
            ) from error
    return tuple(found)


def _spec(node: Node) -> Any:
    when = {one.parameter: list(one.values) for one in node.when}
    tail: dict[str, Any] = {"when": when} if when else {}
    if isinstance(node, Parameter):
        short = _domain_spec(node.domain)
        return {**(short if isinstance(short, dict) else {"choice": short}), **tail} if when else short
    if isinstance(node, Each):
        return {"each": [dump(item) for item in node.items], **tail}
    of = dump(node.of) if isinstance(node.of, tuple) else _domain_spec(node.of)
    return {"repeat": node.count, "of": of, **tail}


def _domain_spec(domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return list(domain.values)
    steps = {} if domain.step == 1 else {"step": domain.step}
    return {"int": [domain.low, domain.high], **steps}


def _place(path: str) -> str:
    return f"parameter '{path}'" if path else "the space"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        return format_value(value)
    return "empty" if not value else f"a {type(value).__name__}"


def _example(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else "1, 2"
