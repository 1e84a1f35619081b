"""A search space as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from nas_distill.report.tables import new_table
from nas_distill.space import SearchSpace


def space_table(space: SearchSpace) -> RenderableType:
    """Return a space's parameters, their values, when they apply, and its size."""
    table = new_table(f"Space {space.name}: {space.size()}")
    for column in ("parameter", "kind", "values", "active when"):
        table.add_column(column)
    for row in space.describe():
        table.add_row(row.name, row.kind, row.values, row.when)
    lines = [Text(line) for line in (space.about, f"Builder: {space.to_dict()['builder']}") if line]
    return Group(table, *lines)
