"""Formatting of figures with their units, as text, Markdown and JSON values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas_distill.costs.budget import Limit
from nas_distill.costs.registry import describe_cost, format_cost
from nas_distill.reports.model import FinalReport, Gain
from nas_distill.tasks import Metric

NONE = "-"


def percent(share: float | None, digits: int = 2) -> str:
    """Write a share of 1 as percent: ``"93.25 %"``; a dash for None and NaN."""
    return NONE if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def figure(value: float | None, row: Metric) -> str:
    """Write a figure of an evaluation in the form of its row; a dash for None and NaN."""
    if row.form == "percent" or value is None:
        return percent(value)
    return format(value, row.form)


def points(difference: float, digits: int = 2) -> str:
    """Write a difference of two shares in percentage points, with its sign: ``"+0.42 points"``."""
    text = f"{100 * difference:+.{digits}f}"
    return f"{text if float(text) else text[1:]} points"


def cost(name: str, value: float | None) -> str:
    """Write a cost with its unit; an unknown cost is written as a number."""
    return NONE if value is None else format_cost(name, value)


def label(name: str) -> str:
    """Return the name of a cost in text and headers."""
    return describe_cost(name).label


def costs(values: Mapping[str, float], names: Iterable[str] = ()) -> str:
    """Write costs on one line: ``"1.2 M flops, 0.48 ms latency"``; only ``names`` (in their order), if given."""
    wanted = [name for name in (tuple(names) or values) if name in values]
    return ", ".join(f"{cost(name, values[name])} {label(name)}" for name in wanted)


def limit(name: str, value: Limit | None) -> str:
    """Write a limit in short form: ``"<= 2 M"``, ``">= 10 k"``, ``"10 k to 2 M"``; a dash for none."""
    if value is None or (value.low is None and value.high is None):
        return NONE
    if value.low is None:
        return f"<= {cost(name, value.high)}"
    if value.high is None:
        return f">= {cost(name, value.low)}"
    return f"{cost(name, value.low)} to {cost(name, value.high)}"


def times(ratio: float | None) -> str:
    """Write a ratio: ``"8.1x"``."""
    if ratio is None or not math.isfinite(ratio):
        return NONE
    return f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"


def duration(seconds: float | None) -> str:
    """Write seconds as a person says them: ``"0.8 s"``, ``"45 s"``, ``"2 min 05 s"``, ``"1 h 02 min"``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def durations(parts: Mapping[str, float]) -> tuple[str, dict[str, str]]:
    """Write seconds in total and by part, rounded so that the written parts add up to the written total.

    Parts too short for the total's unit (tenths of a second, seconds, or minutes) are left out.
    """
    total = sum(parts.values())
    unit = 0.1 if total < 9.95 else 1.0 if total < 3600 else 60.0
    written, so_far, before = {}, 0.0, 0
    for name, seconds in parts.items():
        so_far += seconds
        units = round(so_far / unit) - before
        before += units
        if units:
            written[name] = _units(units, unit)
    return _units(before, unit), written


def _units(count: int, unit: float) -> str:
    if unit < 1:
        return f"{count / 10:.1f} s"
    if unit == 1.0:
        return f"{count} s" if count < 60 else duration(count)
    return f"{count} min" if count < 60 else duration(60.0 * count)


def count(number: int, one: str, many: str | None = None) -> str:
    """Write a count and its noun: ``"1 trial"``, ``"12,000 trials"``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def to_plain(value: Any) -> Any:
    """Return a report as dicts, lists and scalars for ``--json``; numbers that are not finite become None.

    Keys are the names of attributes, which contain the units; derived figures of a ``FinalReport`` and of its ``Gain``
    are included.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {entry.name: to_plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
        if isinstance(value, FinalReport):
            plain["speed_up"] = to_plain(value.speed_up)
        return plain | ({"verdict": value.verdict} if isinstance(value, Gain) else {})
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table, the first column left-aligned and the others right-aligned; bars are escaped."""
    lines = [headers, [":--", *["--:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
