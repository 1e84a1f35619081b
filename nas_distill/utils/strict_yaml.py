"""Strict YAML for search files and space files: plain values only, no repeated keys, bounded size.

Dates are read as text. Tags for sets, dates, binary data and Python objects are refused, since no key of a file takes
such a value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from nas_distill.utils.errors import NasDistillError, first_line

MAX_BYTES = 300_000
MAX_LEVELS = 40
"""Maximum nesting of lists and mappings, with aliases expanded."""
MAX_REPEATED = 10_000
"""Maximum number of values repeated by aliases, in addition to those written out."""
MAX_DIGITS = 100
"""Maximum length of an integer as written."""

_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


def load_strict(path: Path, error: type[NasDistillError], *, what: str = "") -> Any:
    """Read a YAML file.

    Args:
        path: the file.
        error: the class of errors to raise.
        what: start of messages, before the path, e.g. ``"space file "``.

    Raises:
        error: the file is missing, too large, not YAML, or outside this module's limits; the message names the line.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise error(f"{what}{path} has {size:,} bytes; at most {MAX_BYTES:,} are read.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as problem:
        reason = (
            "does not exist" if isinstance(problem, FileNotFoundError) else f"cannot be read ({first_line(problem)})"
        )
        raise error(f"{what}{path} {reason}.") from problem
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        cause = getattr(problem, "problem", None) or first_line(problem)
        raise error(f"{what}{path} is not valid YAML{where}: {' '.join(cause.split()).rstrip('.')}.") from problem


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the limits of this module."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = 0
        self._repeated = 0
        # Values and levels of each collection, with aliases expanded.
        self._extents: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        self._level += 1
        if self._level > MAX_LEVELS:
            raise ComposerError(None, None, f"nested more than {MAX_LEVELS} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is None:
            return None
        if alias:
            if node not in self._extents:
                raise ComposerError(None, None, f"the alias '{event.anchor}' contains itself", event.start_mark)
            values, levels = self._extents[node]
            self._repeated += values
            if self._repeated > MAX_REPEATED or self._level + levels > MAX_LEVELS:
                raise ComposerError(None, None, "aliases repeat too much; write the values out", event.start_mark)
        else:
            below = [self._extents[child] for child in _children(node)]
            self._extents[node] = (
                1 + sum(values for values, _ in below),
                1 + max((levels for _, levels in below), default=0),
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be text", key.start_mark)
            # PyYAML would silently drop the first of two equal keys.
            value = (key.tag, key.value) if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key)
            if value in seen:
                raise ConstructorError(None, None, f"the key '{key.value}' is given twice", key.start_mark)
            seen.add(value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        integer = node.tag == "tag:yaml.org,2002:int"
        if integer and isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_DIGITS:
            raise ConstructorError(None, None, f"a number has more than {MAX_DIGITS} digits", node.start_mark)
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode("utf-8")
        except yaml.YAMLError:
            raise
        except UnicodeEncodeError as error:
            raise ConstructorError(None, None, "text contains an invalid Unicode character", node.start_mark) from error
        except Exception as error:  # PyYAML does not catch errors of its own conversions
            tag = str(node.tag).rpartition(":")[2]
            raise ConstructorError(None, None, f"the value is not a valid {tag}", node.start_mark) from error
        return value


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


# Copies, so that PyYAML's own loader is not modified.
_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _PLAIN_TAGS
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
