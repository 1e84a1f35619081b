"""``nas-distill calibrate``: how far the short scores of a search may be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_distill.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nas_distill.api.calibration import Calibration


def calibrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="search file, whose space and trainings are examined")],
    count: Annotated[int, typer.Option(help="architectures to train")] = 24,
    workers: Annotated[int | None, typer.Option(help="trainings at a time")] = None,
    folder: Annotated[Path | None, typer.Option(help="of the results; beside the file unless given")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the calibration that is there")] = False,
    whole_range: Annotated[
        bool, typer.Option("--whole-range", help="draw from the whole space, not within the budget alone")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document instead of a table")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")] = False,
) -> None:
    """Train some architectures short and in full, say which short score ranks them best, and advise the search.

    Ctrl-C once stops cleanly; --resume goes on.
    """
    from nas_distill.api.calibration import calibrate as run_calibration
    from nas_distill.api.console import ConsoleObserver

    with ConsoleObserver(quiet=quiet or as_json) as observer:
        found = run_calibration(
            file,
            count=count,
            whole_range=whole_range,
            folder=folder,
            resume=resume,
            observer=observer,
            workers=workers,
        )
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        _say(found)


def _say(found: Calibration) -> None:
    from rich.table import Table

    from nas_distill.report.ranking_text import figure
    from nas_distill.report.scores import Figure

    table = Table(title=f"How each score ranks {found.networks} architectures after full distillation")
    for header in ("score", "tau", "95 % interval", "best fifth found", "seconds"):
        table.add_column(header, justify="left" if header == "score" else "right")
    for entry in found.rankings:
        if entry.early or entry.figure is Figure.LAST:  # these are in the report
            continue
        interval = "-" if entry.interval is None else f"{entry.interval[0]:.2f} to {entry.interval[1]:.2f}"
        table.add_row(entry.name, figure(entry.tau), interval, f"{entry.recall:.0%}", figure(entry.seconds, 1))
    print_table(table)
    for reason in () if found.advice is None else found.advice.reasons:
        typer.echo(f"- {reason}")
    typer.echo(f"Report: {found.report}\nAdvice: {found.advice_file}; a search takes it with --calibration")
