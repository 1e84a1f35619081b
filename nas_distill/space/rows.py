"""A space as the rows of a table."""

from __future__ import annotations

from typing import NamedTuple

from nas_distill.space.architecture import join
from nas_distill.space.parameters import Choice, Domain
from nas_distill.space.tree import Each, Parameter, Scope
from nas_distill.space.walk import conditions


class Row(NamedTuple):
    """A parameter: its flat name (``*`` is any entry of a list), its kind, its values, and when it is active."""

    name: str
    kind: str
    values: str
    when: str


def describe(scope: Scope, path: str = "") -> list[Row]:
    """Return a row for every parameter and list, in the order of declaration."""
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
