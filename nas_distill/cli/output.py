"""What commands print: tables for people, one JSON document for scripts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from nas_distill.api import Student
    from nas_distill.evaluate.report import AnyEvaluation


def print_table(renderable: Any) -> None:
    """Print what rich can draw, as wide as the terminal."""
    from rich.console import Console

    Console().print(renderable)


def print_json(value: Any) -> None:
    """Print a report, or plain values, as one JSON document."""
    from nas_distill.report.plain import to_plain

    typer.echo(json.dumps(to_plain(value), indent=2, default=str))


def say_student(student: Student, evaluation: AnyEvaluation, split: str, as_json: bool) -> None:
    """Say what a student is worth on a split."""
    if as_json:
        print_json({"student": str(student.folder), "split": split, **vars(evaluation)})
        return
    from nas_distill.common.task import QUALITY
    from nas_distill.evaluate.report import Evaluation, RegressionEvaluation
    from nas_distill.report import words

    what = "" if isinstance(evaluation, Evaluation) else f"{QUALITY[student.trial.run.task]} "
    if isinstance(evaluation, RegressionEvaluation):
        further = f"RMSE {evaluation.rmse:.4g}, MAE {evaluation.mae:.4g}"
    else:
        further = f"ECE {evaluation.ece:.4f}, NLL {evaluation.nll:.4f}"
    typer.echo(
        f"{student.folder}: {what}{words.percent(evaluation.quality)} on {evaluation.count:,} {split} samples "
        f"({words.percent(evaluation.retained)} of the teacher's, agreement {words.percent(evaluation.agreement)}, "
        f"{further})"
    )
