"""Sentences on the gain of a search: its student against the best network that needs no search."""

from __future__ import annotations

from nas_distill.costs.registry import describe_cost
from nas_distill.reports import formatting as words
from nas_distill.reports.model import FinalReport, Gain
from nas_distill.tasks import find_task

_ALIKE = 0.1
"""Relative difference of costs up to which two networks cost about the same."""
_SPLITS = {"val": "validation", "train": "training"}


def gain_lines(report: FinalReport) -> list[str]:
    """Return a sentence on the difference between student and uniform network, with its error and both costs.

    The error is over samples only: each network was trained once. No sentence if there is no uniform network.
    """
    gain = report.gain
    if gain is None:
        return []
    if gain.student_is_uniform:
        return [_same(report, gain)]
    points = f"{words.points(gain.difference)} of {find_task(report.task).quality_name}"
    found = {
        "gain": f"The search gained {points} over {gain.over}",
        "tie": f"The search did not gain over {gain.over}: a difference of {points} may be chance",
        "loss": f"The search did not gain over {gain.over}: a difference of {points} is a loss",
    }[gain.verdict]
    return [f"{found} ({_error(report, gain)}){_costs(report, gain)}."]


def _same(report: FinalReport, gain: Gain) -> str:
    others = [entry for entry in report.finalists if not entry.chosen]
    qualities = [entry.full for entry in others if entry.full is not None]
    if not others:
        why = "it is the only finalist"
    elif not qualities:
        why = "every other finalist failed"
    else:
        best, own = words.percent(max(qualities)), words.percent(report.student.validation)
        why = f"on validation data it has {own}, the best other finalist {best}"
    return f"The search did not gain over {gain.over}, which is the student: {why}."


def _error(report: FinalReport, gain: Gain) -> str:
    samples = f"over {_SPLITS.get(report.split, report.split)} samples, one training each"
    if gain.low is None or gain.high is None:
        return f"the error is unknown; {samples.removeprefix('over ')}"
    low, high = (words.points(end).removesuffix(" points") for end in (gain.low, gain.high))
    return f"95 % interval {low} to {high} {samples}"


def _costs(report: FinalReport, gain: Gain) -> str:
    """Return a clause on the limited costs and the speed of the student, relative to the uniform network's."""
    names = [name for name in report.limits if name in gain.costs and not describe_cost(name).measured]
    shares = {name: gain.costs[name] for name in names or ["flops"] if name in gain.costs}
    parts = []
    for name, share in shares.items():
        both = (costs.get(name) for costs in (report.student.costs, report.uniform.costs if report.uniform else {}))
        amounts = " against ".join(words.cost(name, value) for value in both)
        different = abs(share - 1) > _ALIKE
        parts.append(f"{words.percent(share, 0)} of its {words.label(name)}{f' ({amounts})' if different else ''}")
    if gain.speed is not None:
        parts.append(f"{gain.speed:.2f} times its speed")
    if not parts:
        return ""
    ratios = [*shares.values(), *([] if gain.speed is None else [1 / gain.speed])]
    cheaper = min(ratios) < 1 - _ALIKE and max(ratios) <= 1 + _ALIKE
    return f"{', but' if cheaper and gain.verdict != 'gain' else ','} at {_listed(parts)}"


def _listed(parts: list[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if parts[1:] else []), parts[-1]])
