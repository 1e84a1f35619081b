"""``nas-distill assemble``: students put together of a run's distilled blocks for another budget, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas_distill.cli.arguments import BudgetOption, JsonOption, RunArgument, TrustOption, open_the_run, parse_budget
from nas_distill.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nas_distill.api.assembling import Assembled


def assemble(
    run: RunArgument,
    budget: BudgetOption = None,
    count: Annotated[int, typer.Option(min=1, help="assemblies to show")] = 10,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Assemble students of a run's distilled blocks within a budget; seconds, and nothing is trained.

    For runs of strategy blockwise or hybrid. A search with blockwise: {library: RUN/blocks} trains them.
    """
    opened = open_the_run(run, trust=trust)
    found = opened.assemble(parse_budget(budget), count=count)
    if as_json:
        print_json([entry.row() for entry in found])
    else:
        _say(found, opened.task)


def _say(found: list[Assembled], task: str) -> None:
    from nas_distill.report import words
    from nas_distill.report.tables import add_columns, add_row, new_table
    from nas_distill.tasks import find_task

    table = new_table("Assemblies of distilled blocks, best first")
    names = list(found[0].predicted)
    add_columns(table, ["blocks"], ["local score", "expected", *names, "trial"])
    table.columns[0].no_wrap = False
    table.columns[0].overflow = "fold"  # a name that is cut short says nothing of widths
    for entry in found:
        costs = [words.cost(name, entry.costs[name]) for name in names]
        trial = words.NONE if entry.trial is None else str(entry.trial)
        add_row(table, [" ".join(entry.blocks), f"{entry.score:.4g}", words.percent(entry.expected), *costs, trial])
    print_table(table)
    typer.echo("Local score: what is lost block by block, lower is better.")
    if found[0].expected is None:
        typer.echo("Nothing is expected of them yet: too few trials of such blocks came to their end.")
    else:
        typer.echo(
            f"Expected: {find_task(task).quality_name} of a short distillation, by the trials that came to their end."
        )
