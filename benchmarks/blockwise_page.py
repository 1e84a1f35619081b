"""The page of benchmarks/blockwise.py, and its raw numbers, from its results."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import fmean, median, stdev

from blockwise_solve import BLOCKS, MANY, OPTIONS
from blockwise_study import AS_CUT, INHERITED, LIMITS, RECONSTRUCTED, WITHIN, Student, Study
from common import table
from scipy.stats import t as student_t

from nas_distill.blockwise.assembler import SCORES
from nas_distill.blockwise.fit import MINIMUM, fit
from nas_distill.evaluate.intervals import RankCorrelation, rank_correlation

_NAMES = {"kl": "replace-one-block KL", "nsr": "noise-to-signal ratio", "relative_l1": "relative L1"}


def page(study: Study) -> list[str]:
    """Return the page's parts."""
    return [
        _about(study),
        "## How local scores rank",
        _ranks_text(study),
        _ranks(study),
        _weights(study),
        "## What each score chooses",
        _chosen_text(study),
        _chosen(study),
        "## Gain from local training",
        _controls_text(study),
        _controls(study),
        "## Assembling for a new limit",
        _times(study),
    ]


def raw(study: Study) -> str:
    """Return one line per student as CSV; accuracies are shares of 1 on the validation split.

    Local scores are of each block and of the classifier, which loses by the last width; accuracies are of the library's
    blocks (``before`` and ``after`` training), of the teacher's weights (``_inherited``), and of those without any
    training, reconstructed or as they were (``untrained_``).
    """
    blocks = range(len(study.plan.blocks))
    text = io.StringIO()
    scores = [f"{score}_{part}" for score in SCORES for part in (*blocks, "classifier")]
    measured = ["before", "after", "before_inherited", "after_inherited"]
    untrained = {f"untrained_{name}": name for name in (RECONSTRUCTED, AS_CUT)}
    headers = ["student", "limit", "flops", *(f"block_{block}" for block in blocks), *scores, *measured, *untrained]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headers)
    for student in [*study.drawn, *study.chosen]:
        local = [f"{value:.6g}" for score in SCORES for value in study.scores(student, score)]
        keys = (student.key, f"{INHERITED}{student.key}")
        found = [_measured(study, key, when) for key in keys for when in ("before", "after")]
        found += [_untrained(study, f"{name}-{student.key}") for name in untrained.values()]
        shown = ["" if value is None else f"{value:.4f}" for value in found]
        row = [student.key, student.limit, f"{student.flops:.5f}", *student.alternatives, *local, *shown]
        if len(row) != len(headers):
            raise ValueError(f"a row of {len(row)} figures under {len(headers)} headers")
        writer.writerow(row)
    return text.getvalue()


def _untrained(study: Study, key: str) -> float | None:
    return study.untrained[key] if key in study.untrained else None  # noqa: SIM401 - a Book has no get


def _measured(study: Study, key: str, when: str) -> float | None:
    if when == "before":
        return study.before[key] if key in study.before else None  # noqa: SIM401 - a Book has no get
    return study.book[key]["quality"] if study.finished(key) else None


def _about(study: Study) -> str:
    data, library = study.data, study.library
    images = round(study.epochs * len(data.train))
    off = max(abs(study.exact(student) - student.flops) for student in [*study.drawn, *study.chosen])
    found = "exactly those counted on the built networks" if off == 0 else f"off by up to {off:.2e} of the teacher's"
    return f"""{data.name}: {len(data.train):,} training and {len(data.val):,} validation images; the shipped teacher,
cut into {len(study.plan.blocks)} blocks with {len(library.scores)} alternatives, which were trained side by side on
{library.presented:,} presented images in {library.seconds / 60:.1f} minutes and scored on {study.settings.heldout:,}
training images that were held out. {len(study.drawn)} assemblies were drawn at random near below {_limits()} of the
teacher's FLOPs (at least {WITHIN:.0%} of the limit), {study.each} a limit, and distilled for {images:,} presented
images each. All accuracies are on the validation split, which neither teacher nor students saw. Costs predicted by
adding up alternatives are {found}."""


def _limits() -> str:
    *most, last = [f"{100 * limit:g}" for limit in LIMITS]
    return f"{', '.join(most)} and {last} %"


def _ranks_text(study: Study) -> str:
    return """Kendall's τ-b with accuracy, with its 95 % bootstrap interval over students; 1 is the same order, 0 none.
*Before* is without any training of the assembled student (batch norm re-estimated), *after* is after KD; *within a
limit* compares only students of about equal FLOPs, which is what a search within a budget has to do. *Fitted*: weights
of blocks by ridge regression, each student predicted by weights that were fitted without it. *Accuracy of ...* is that
of the whole student before any training: with the weights that it inherits, after reconstruction (*reconstructed*) or
*as they were*, or with the library's blocks."""


def _ranks(study: Study) -> str:
    students = [student for student in study.drawn if study.finished(student.key) and student.key in study.before]
    before = [study.before[student.key] for student in students]
    after = [study.book[student.key]["quality"] for student in students]
    limits = [student.limit for student in students]
    rows = [["FLOPs only", *_row([student.flops for student in students], before, after, limits)]]
    for name, about in ((RECONSTRUCTED, "reconstructed"), (AS_CUT, "as they were")):
        untrained = [study.untrained[f"{name}-{student.key}"] for student in students]
        rows.append([f"accuracy of the teacher's weights, {about}", *_row(untrained, before, after, limits)])
    rows.append(["accuracy of the library's blocks", *["-"] * 2, *_row(before, before, after, limits)[2:]])
    for score in SCORES:
        local = [study.scores(student, score) for student in students]
        rows.append([f"sum of {_NAMES[score]}", *_row([-sum(one) for one in local], before, after, limits)])
    for score in SCORES if len(students) >= MINIMUM else ():
        local = [study.scores(student, score) for student in students]
        cells = []
        for measured in (before, after):
            held_out = fit(local, measured).held_out
            cells += [_tau(rank_correlation(held_out, measured, seed=0, groups=groups)) for groups in (None, limits)]
        rows.append([f"fitted {_NAMES[score]}", *cells])
    headers = ["predictor", "before", "before, within a limit", "after", "after, within a limit"]
    return table(headers, rows)


def _row(
    predicted: Sequence[float], before: Sequence[float], after: Sequence[float], limits: Sequence[float]
) -> list[str]:
    return [
        _tau(rank_correlation(predicted, measured, seed=0, groups=groups))
        for measured in (before, after)
        for groups in (None, limits)
    ]


def _tau(found: RankCorrelation) -> str:
    return f"{found.tau:.2f} ({found.low:.2f} to {found.high:.2f})"


def _weights(study: Study) -> str:
    students = [student for student in study.drawn if study.finished(student.key)]
    if len(students) < MINIMUM:
        return f"Fewer than {MINIMUM} students are finished, so no weights were fitted."
    told = []
    for score in SCORES:
        fitted = fit(
            [study.scores(student, score) for student in students],
            [study.book[student.key]["quality"] for student in students],
        )
        told.append(f"{_NAMES[score]}: {', '.join(f'{weight:.2f}' for weight in fitted.weights)}")
    return f"Weights of the blocks, first to last, fitted to accuracy after KD (their mean is 1): {'; '.join(told)}."


def _chosen_text(study: Study) -> str:
    return f"""The best assembly within each limit by the sum of each score, distilled as the others were, beside the
{study.each} random ones of that limit."""


def _chosen(study: Study) -> str:
    rows = []
    for limit in LIMITS:
        for student in study.chosen:
            if student.limit == limit:
                rows.append(_chosen_row(study, student))
        drawn = [student for student in study.drawn if student.limit == limit and study.finished(student.key)]
        if drawn:
            before = [study.before[student.key] for student in drawn]
            after = [study.book[student.key]["quality"] for student in drawn]
            shares = [student.flops for student in drawn]
            for name, of in (("median", median), ("best", max)):
                cells = [f"{of(shares):.1%}", f"{of(before):.1%}", f"{of(after):.1%}"]
                rows.append([f"{limit:.0%}", f"random, {name}", "", *cells])
    return table(["limit", "chosen by", "blocks", "FLOPs", "before", "after"], rows)


def _chosen_row(study: Study, student: Student) -> list[str]:
    score = student.key.split("-")[1]
    short = ", ".join(key.partition("-")[2].removeprefix("whole-") for key in student.alternatives)
    shown = [_measured(study, student.key, when) for when in ("before", "after")]
    cells = ["" if value is None else f"{value:.1%}" for value in shown]
    return [f"{student.limit:.0%}", _NAMES[score], f"`{short}`", f"{student.flops:.1%}", *cells]


def _controls_text(study: Study) -> str:
    return """The same students, seeds and images, begun with the blocks of the library or with the teacher's weights
only (cut by importance, reconstructed, batch norm re-estimated). Gains with their 95 % interval over students
(Student's quantile); each was trained once, so the noise of training is in it, and that of the library, which was
trained once, is not."""


def _controls(study: Study) -> str:
    rows = []
    for limit in LIMITS:
        pairs: dict[str, list[tuple[float, float]]] = {"before": [], "after": []}
        for student in study.controlled:
            for when, kept in pairs.items():
                ours = _measured(study, student.key, when)
                theirs = _measured(study, f"{INHERITED}{student.key}", when)
                if student.limit == limit and ours is not None and theirs is not None:
                    kept.append((ours, theirs))
        rows.append([f"{limit:.0%}", len(pairs["after"]), *(_pairs(kept) for kept in pairs.values())])
    return table(["limit", "students", "before: library, inherited (gain)", "after: library, inherited (gain)"], rows)


def _pairs(pairs: Sequence[tuple[float, float]]) -> str:
    if not pairs:
        return ""
    gains = [100 * (ours - theirs) for ours, theirs in pairs]
    noise = ""
    if len(gains) > 1:
        quantile = float(student_t.ppf(0.975, len(gains) - 1))
        noise = f" ± {quantile * stdev(gains) / len(gains) ** 0.5:.1f}"
    means = [fmean(side) for side in zip(*pairs, strict=True)]
    return f"{means[0]:.1%}, {means[1]:.1%} ({fmean(gains):+.1f}{noise} points)"


def _times(study: Study) -> str:
    times = study.book["times"]
    rows = [[name, f"{median(seconds):.2f}", f"{max(seconds):.2f}"] for name, seconds in times["seconds"].items()]
    rounds = len(next(iter(times["seconds"].values())))
    alternatives = f"{times['options']:,}"
    return f"""Seconds over {rounds} limits drawn between {LIMITS[0]:.0%} and {LIMITS[-1]:.0%} of the FLOPs: the best
assembly, and {MANY} unlike ones. *Library* reads this benchmark's from disk and has one limit; *made up* is a network
of {BLOCKS} blocks with some {OPTIONS} alternatives each ({alternatives} in all), and limits on FLOPs and parameters.
Nothing is trained or run for it.

{table(["case", "median s", "longest s"], rows)}"""
