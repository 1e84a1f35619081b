"""What a network is to tell of a sample: one class, several labels, or numbers."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["classification", "multilabel", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

QUALITY: dict[Task, str] = {
    "classification": "accuracy",
    "multilabel": "mean average precision",
    "regression": "R\N{SUPERSCRIPT TWO}",
}
"""What quality is of each task, as it is called in reports; higher is better, 1 is the best."""

OUTPUT: dict[Task, str] = {"classification": "class", "multilabel": "label", "regression": "target"}
"""What a number of a network's output stands for."""

OUTPUTS: dict[Task, str] = {"classification": "classes", "multilabel": "labels", "regression": "targets"}
"""The same in the plural."""
