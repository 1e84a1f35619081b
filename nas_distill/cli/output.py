"""What commands print: tables for people, one JSON document for scripts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from nas_distill.api import Student
    from nas_distill.tasks import Evaluation


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end


def printable(text: str) -> str:
    """Return text of a run or a student without characters that a terminal would obey, since a stranger may send it."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_table(renderable: Any) -> None:
    """Print what rich can draw, as wide as the terminal."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    console = Console()
    parts = [Segment(printable(part.text), part.style) for part in console.render(renderable) if not part.control]
    console.print(Segments(parts), end="")


def print_json(value: Any) -> None:
    """Print a report, or plain values, as one JSON document."""
    from nas_distill.report.plain import to_plain

    typer.echo(json.dumps(to_plain(value), indent=2, default=str))


def say_student(student: Student, evaluation: Evaluation, split: str, as_json: bool) -> None:
    """Say what a student is worth on a split."""
    if as_json:
        print_json({"student": str(student.folder), "split": split, **vars(evaluation)})
        return
    from nas_distill.report import words
    from nas_distill.tasks import find_task

    task = find_task(student.run.task)
    apart = ("retained", "agreement")
    further = [
        f"{figure.title.partition(' (')[0]} {words.figure(getattr(evaluation, figure.field), figure)}"
        for figure in task.figures[1:]
        if figure.field not in apart
    ]
    typer.echo(
        f"{student.folder}: {task.quality_name} {words.percent(evaluation.quality)} on {evaluation.count:,} {split} "
        f"samples ({words.percent(evaluation.retained)} of the teacher's, agreement "
        f"{words.percent(evaluation.agreement)}, {', '.join(further)})"
    )
