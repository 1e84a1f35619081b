"""The page of benchmarks/losses.py, from its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from common import Quartiles, ratios, spread, table
from losses_cases import (
    ASSISTANT,
    AUXILIARY,
    CASES,
    INVERTED,
    KD,
    LABELS,
    NARROW,
    STRATEGIES,
    STUDENT,
    TEMPERATURE,
    Case,
)
from losses_peers import peers_said, peers_table, peers_text
from losses_rows import BETTER, FAILED, SHOWN, TIE, WORSE, Row, flops
from losses_time import LIVE, STORED
from losses_train import SHIPPED, Trainings
from scipy.stats import t as student_t

from nas_distill.config import CurriculumConfig

BYTES_SHOWN = {KD: "only logits", "kd+at": "with attention maps", "kd+rkd": "with pooled vectors"}


def page(trainings: Trainings) -> list[str]:
    """Return the page's parts."""
    losses = [Row.of(case.name, trainings) for case in CASES]
    strategies = [Row.of(strategy.name, trainings) for strategy in STRATEGIES]
    kd = losses[0]
    assert kd.name == KD
    times = trainings.book["times"]
    return [
        _about(trainings),
        "## Losses",
        _losses_text(times),
        _losses_table(losses, kd, trainings, times),
        _said(losses, kd, "losses"),
        *_labels_said(losses, kd),
        "## Strategies",
        _strategies_text(),
        _teachers_table(trainings),
        _strategies_table(strategies, kd),
        _said(strategies, kd, "strategies"),
        "### What peers cost",
        peers_text(),
        peers_table(trainings),
        peers_said(times, trainings),
        "## What the store brings",
        _store_table(times, trainings),
        _store_said(times),
    ]


def _about(trainings: Trainings) -> str:
    seeds = trainings.seeds
    chance = 2 * float(student_t.sf(2.0, seeds - 1))
    rows = len(CASES) + len(STRATEGIES) - 1
    return f"""One student (a residual network of {flops(STUDENT, trainings):.2f} M FLOPs), {trainings.epochs:g}
epochs of {len(trainings.data.train):,} training images in {trainings.data.views.count} views, {seeds} seeds,
which fix initial weights, order and views alike for every row. The teacher is
`{SHIPPED}`: {trainings.shipped_tested.accuracy:.2%} on the test split ({trainings.shipped_tested.count:,} samples).
Every loss has the weight and options that it has unless told; nothing was tuned, and the training is short, so this
says what one gets by naming a loss in such a budget, not what it could reach, nor how longer trainings end. The test
split was used only for this page, and nothing was chosen by it.

*Against kd* is the difference in test accuracy, in points, mean over seeds (paired), ± two standard errors of it.
Within them it is a *tie*. With {seeds} seeds that is a coarse rule: a row that is truly equal leaves it with a
chance of {chance:.0%}, so of the {rows} rows about {rows * chance:.0f} would be called better or worse by chance. A
row of which a training broke down counts as *failed*."""


def _losses_text(times: dict[str, Any]) -> str:
    rounds = len(times["rounds"][KD])
    tasks = " and ".join(f"`kd+{name}`" for name in AUXILIARY)
    return f"""Losses on logits stand in kd's place beside cross-entropy of weight 0.1; `kd+x` is x beside
cross-entropy 0.1 and kd 0.9 (T = {TEMPERATURE:g}); {tasks} are auxiliary tasks,
for which the student sees each batch once more. *The teacher tells* what is read from the store; whole layers come
from the live teacher. Accuracy: mean (lowest to highest) over seeds. Agreement, ECE (15 bins) and NLL are on test data.
Milliseconds a step: medians over {rounds} rounds of blocks of {times["steps"]} steps that take turns, one thread; the
ratio to kd is taken within a round: median (quartiles)."""


def _losses_table(rows: Sequence[Row], kd: Row, trainings: Trainings, times: dict[str, Any]) -> str:
    cells = []
    for case, row in zip(CASES, rows, strict=True):
        label = f"`{row.name}`" + (f" ({case.about})" if case.about else "")
        milliseconds = Quartiles.of(times["rounds"][row.name]).median
        ratio = ratios(times["rounds"], row.name, KD).text(2)
        cells.append([label, _tells(case, trainings), *_figures(row, kd), f"{milliseconds:.1f}", ratio])
    return table(["loss", "the teacher tells", *_FIGURES, "ms a step", "ms / kd"], cells)


_FIGURES = ("validation", "test", "against kd", "", "agreement", "ECE", "NLL")


def _figures(row: Row, kd: Row) -> list[str]:
    if not row.tests:
        return ["-", "-", "-", FAILED, "-", "-", "-"]
    gain, noise = row.gain(kd)
    against = "-" if row.name == KD or math.isnan(gain) else f"{100 * gain:+.2f} ± {100 * noise:.2f}"
    return [
        spread(list(row.validation.values())),
        spread([test.accuracy for test in row.tests.values()]),
        against,
        "" if row.name == KD else row.verdict(kd),
        f"{row.mean('agreement'):.2%}",
        f"{row.mean('ece'):.4f}",
        f"{row.mean('nll'):.4f}",
    ]


def _tells(case: Case, trainings: Trainings) -> str:
    if not case.taught:
        return "nothing"
    reductions = sorted({feature.reduction for feature in trainings.features(case)})
    return ", ".join({"full": "whole layers", "pooled": "+ vectors", "attention": "+ maps"}[r] for r in reductions) or (
        "logits"
    )


def _said(rows: Sequence[Row], kd: Row, what: str) -> str:
    """Return which rows are better than kd, tied with it, worse, or failed."""
    by: dict[str, list[Row]] = {verdict: [] for verdict in (BETTER, WORSE, TIE, FAILED)}
    for row in rows:
        if row.name not in (KD, LABELS):
            by[row.verdict(kd)].append(row)
    total = sum(len(found) for found in by.values())
    told = []
    for verdict, words in ((BETTER, "Better than"), (WORSE, "Worse than"), (TIE, "Tied with")):
        chosen = sorted(by[verdict], key=lambda row: -row.gain(kd)[0])
        named = ", ".join(f"`{row.name}` ({100 * row.gain(kd)[0]:+.2f})" for row in chosen)
        told.append(f"{words} kd, {len(chosen)} of {total} {what}{': ' + named if named else ''}.")
    told.extend(f"`{row.name}` failed in {_failures(row, kd)}: {row.cause}" for row in by[FAILED])
    return " ".join(told)


def _failures(row: Row, kd: Row) -> str:
    return f"some of its {len(kd.tests)} trainings" if row.tests else "all of its trainings"


def _labels_said(rows: Sequence[Row], kd: Row) -> list[str]:
    labels = next(row for row in rows if row.name == LABELS)
    verdict = labels.verdict(kd)
    if verdict == FAILED:
        return [f"Training on labels only failed: {labels.cause}"]
    gain, noise = labels.gain(kd)
    words = {TIE: "a tie with kd", BETTER: "better than kd", WORSE: "worse than kd"}[verdict]
    below = [row.name for row in rows if row.tests and row.name != LABELS and row.verdict(labels) == WORSE]
    more = f" Worse than it: {', '.join(f'`{name}`' for name in below)}." if below else " No loss is worse than it."
    return [f"Labels only are {words} ({100 * gain:+.2f} ± {100 * noise:.2f} points).{more}"]


def _strategies_text() -> str:
    easy = CurriculumConfig()
    return f"""All by kd, compared with kd from only the shipped teacher (the first row above, same seeds). The other
teachers were trained briefly, for as many epochs as the student: two on labels only, to teach beside the shipped
one, and the assistant by kd. Their own training is not part of the student's budget.
Peers are trained side by side with the student, as `nas-distill mutual` does it; what they cost is said below.
A curriculum lets the easiest {easy.start:.0%} of each batch count at first, and all of it after {easy.until:.0%} of the
training.
Agreement is with the shipped teacher."""


def _teachers_table(trainings: Trainings) -> str:
    cells = []
    for name, how in {NARROW: "on labels", INVERTED: "on labels", ASSISTANT: "by kd"}.items():
        if trainings.finished(name):
            test = trainings.tested(name)
            cost = f"{flops(name, trainings):.2f}"
            cells.append([f"{SHOWN[name]}, {how}", cost, f"{test.accuracy:.2%}", f"{test.agreement:.2%}"])
    return table(["who teaches", "M FLOPs", "test", "agreement"], cells)


def _strategies_table(rows: Sequence[Row], kd: Row) -> str:
    about = {strategy.name: strategy.about for strategy in STRATEGIES} | {KD: "only the shipped teacher"}
    return table(
        ["strategy", "", *_FIGURES], [[f"`{row.name}`", about[row.name], *_figures(row, kd)] for row in (kd, *rows)]
    )


def _store_table(times: dict[str, Any], trainings: Trainings) -> str:
    cells = []
    samples = len(trainings.data.train) * trainings.data.views.count + len(trainings.data.val)
    for name in STORED:
        rounds, size = times["rounds"], times["bytes"][name]
        stored, live = Quartiles.of(rounds[name]), Quartiles.of(rounds[name + LIVE])
        ratio = ratios(rounds, name + LIVE, name)
        cells.append(
            [
                f"`{name}`, {BYTES_SHOWN[name]}",
                stored.text(1),
                live.text(1),
                ratio.text(2),
                f"{size / 1e6:.1f} MB",
                f"{size / samples:.0f}",
            ]
        )
    headers = ["loss, store", "ms a step, store", "ms a step, live", "live / store", "on disk", "bytes an answer"]
    return table(headers, cells)


def _store_said(times: dict[str, Any]) -> str:
    rounds, size = times["rounds"], times["bytes"]
    told = []
    for name in STORED:
        ratio = ratios(rounds, name + LIVE, name).median
        told.append(f"`{name}`: a step with the live teacher takes {ratio:.1f} times as long as with the store.")
    for name in STORED[1:]:
        told.append(f"The store {BYTES_SHOWN[name]} takes {size[name] / size[KD]:.1f} times the room of only logits.")
    return " ".join(told)
