"""Shared options of commands, tables for people, and JSON for scripts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_distill.utils.errors import ConfigError

if TYPE_CHECKING:
    from nas_distill.study import Run, Student
    from nas_distill.tasks import Evaluation


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run, e.g. runs/quickstart")]
TrialArgument = Annotated[int | None, typer.Argument(metavar="[TRIAL]", help="trial number; the best one unless given")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document instead of a table")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="load code and files that another user's run names; your own runs do not need it"),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="COST=LIMIT", help="e.g. flops=2M, params=60k, latency_ms=0.5, flops=50%"),
]


def open_run_folder(path: Path, *, trust: bool = False) -> Run:
    """Open a run's folder."""
    from nas_distill.study import open_run

    return open_run(path, trust=trust)


def parse_budget(entries: list[str] | None) -> dict[str, str] | None:
    """Return the limits of ``--budget`` options, None without any.

    Raises:
        ConfigError: an option is not of the form COST=LIMIT.
    """
    if not entries:
        return None
    limits = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"--budget {entry}: write it as COST=LIMIT, e.g. --budget flops=2M.")
        limits[name.strip()] = value.strip()
    return limits


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end


def printable(text: str) -> str:
    """Return text of a run, which may be another user's, without control characters of terminals."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_table(renderable: Any) -> None:
    """Print a rich renderable at the width of the terminal."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    console = Console()
    parts = [Segment(printable(part.text), part.style) for part in console.render(renderable) if not part.control]
    console.print(Segments(parts), end="")


def print_json(value: Any) -> None:
    """Print a report or plain values as one JSON document."""
    from nas_distill.reports.formatting import to_plain

    typer.echo(json.dumps(to_plain(value), indent=2, default=str))


def print_student(student: Student, evaluation: Evaluation, split: str, as_json: bool) -> None:
    """Print the quality of a student on a split."""
    if as_json:
        print_json({"student": str(student.folder), "split": split, **vars(evaluation)})
        return
    from nas_distill.reports import formatting
    from nas_distill.tasks import find_task

    task = find_task(student.run.task)
    named = ("retained", "agreement")
    further = [
        f"{figure.title.partition(' (')[0]} {formatting.figure(getattr(evaluation, figure.field), figure)}"
        for figure in task.metrics[1:]
        if figure.field not in named
    ]
    typer.echo(
        f"{student.folder}: {task.quality_name} {formatting.percent(evaluation.quality)} on {evaluation.count:,} "
        f"{split} samples ({formatting.percent(evaluation.retained)} of the teacher's, agreement "
        f"{formatting.percent(evaluation.agreement)}, {', '.join(further)})"
    )
