"""The figures of an evaluation as rows of a table, by task: accuracy and its like for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas_distill.common.task import QUALITY, Task
from nas_distill.report import words

Row = tuple[str, Callable[[Any], str]]

_CLASSES: Sequence[Row] = (
    ("accuracy", lambda e: words.percent(e.accuracy)),
    ("share of teacher's", lambda e: words.percent(e.retained)),
    ("agreement with teacher", lambda e: words.percent(e.agreement)),
    ("ECE (lower is better)", lambda e: words.percent(e.ece)),
    ("NLL, nats (lower is better)", lambda e: f"{e.nll:.4f}"),
)
_LABELS: Sequence[Row] = (
    (QUALITY["multilabel"], lambda e: words.percent(e.mean_average_precision)),
    ("share of teacher's", lambda e: words.percent(e.retained)),
    ("agreement with teacher, label by label", lambda e: words.percent(e.agreement)),
    ("F1 at a half, mean over labels", lambda e: words.percent(e.f1)),
    ("ECE of labels (lower is better)", lambda e: words.percent(e.ece)),
    ("NLL of all labels, nats (lower is better)", lambda e: f"{e.nll:.4f}"),
)
_TARGETS: Sequence[Row] = (
    (QUALITY["regression"], lambda e: words.percent(e.r2)),
    ("share of teacher's", lambda e: words.percent(e.retained)),
    (f"agreement with teacher, {QUALITY['regression']}", lambda e: words.percent(e.agreement)),
    ("RMSE (lower is better)", lambda e: f"{e.rmse:.4g}"),
    ("MAE (lower is better)", lambda e: f"{e.mae:.4g}"),
)
FIGURES: Mapping[Task, Sequence[Row]] = {"classification": _CLASSES, "multilabel": _LABELS, "regression": _TARGETS}
"""Names of figures, with their direction where lower is better, and how each is written, the quality first."""

SAME: Mapping[Task, str] = {"classification": "same class", "multilabel": "same labels", "regression": ""}
"""What two networks agree in where they answer alike; values are compared by their difference alone."""
