"""Amounts as a person writes them (``2M``, ``512KiB``, ``0.5ms``, ``50%``), read into plain numbers."""

from __future__ import annotations

import math
import re

from nas_distill.common.errors import BudgetError
from nas_distill.cost.registry import SUFFIXES, CostInfo, cost_info

_AMOUNT = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s]*)\s*", re.ASCII)


def parse_amount(amount: float | str, name: str, teacher: float | None = None) -> float:
    """Read an amount of the cost ``name``, in its plain unit (a count, bytes, ms).

    ``amount`` is a number in the plain unit, or text: counts take ``k``, ``M``, ``G``, ``T`` (decimal), bytes ``B``,
    ``KB``/``MB``/``GB`` (decimal) and ``KiB``/``MiB``/``GiB`` (binary), times ``ms``, ``us`` and ``s`` (plain: ms).
    ``"50%"`` is that share of ``teacher``, the teacher's own cost.

    Raises:
        BudgetError: unknown cost, no amount, another unit, negative or not finite, percent with no teacher's cost.
    """
    info = cost_info(name)
    if isinstance(amount, bool) or not isinstance(amount, int | float | str):
        raise BudgetError(f"budget '{name}' is {amount!r}, which is no amount; {_examples(info)}.")
    if not isinstance(amount, str):
        try:
            return _checked(float(amount), amount, info)
        except OverflowError as error:
            raise BudgetError(f"budget '{name}' is too large a number.") from error
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise BudgetError(f"budget '{name}' is '{amount}', which is no amount; {_examples(info)}.")
    number = float(match[1].replace("_", ""))
    if match[2] == "%":
        return _percent(number, amount, info, teacher)
    return _checked(number * _size(match[2], amount, info), amount, info)


def _percent(number: float, amount: str, info: CostInfo, teacher: float | None) -> float:
    if teacher is None:
        raise BudgetError(
            f"budget '{info.name}' is '{amount}' of the teacher's, whose {info.name} is not known here; "
            f"give an absolute amount ({_examples(info)})."
        )
    if not (math.isfinite(teacher) and teacher > 0):
        raise BudgetError(f"budget '{info.name}' is '{amount}' of the teacher's, which is {teacher:g}.")
    return _checked(number / 100 * teacher, amount, info)


def _size(suffix: str, amount: str, info: CostInfo) -> float:
    if info.family == "other":
        if suffix.lower() not in ("", info.unit.lower()):
            raise BudgetError(
                f"budget '{info.name}' is '{amount}', whose unit '{suffix}' is not its own; {_examples(info)}."
            )
        return 1.0
    sizes = SUFFIXES[info.family]
    suffix = suffix.replace("µ", "u").replace("μ", "u")
    if suffix == "" or (info.family == "count" and suffix == "K"):
        return sizes[suffix.lower()] if info.family == "count" else 1.0
    # Bytes and times have no two units that differ in case alone, so 512kib and 5MS are plain; m and M of counts do.
    known = {unit.lower(): size for unit, size in sizes.items()} if info.family != "count" else sizes
    key = suffix.lower() if info.family != "count" else suffix
    if key in known:
        return known[key]
    if info.family == "bytes" and key in ("k", "m", "g", "t"):
        unit = key.upper()
        raise BudgetError(
            f"budget '{info.name}' is '{amount}': say {unit}B (decimal) or {'K' if unit == 'K' else unit}iB (binary)."
        )
    raise BudgetError(f"budget '{info.name}' is '{amount}', whose unit '{suffix}' is not one of it; {_examples(info)}.")


def _checked(value: float, amount: float | str, info: CostInfo) -> float:
    if not math.isfinite(value) or value < 0:
        raise BudgetError(f"budget '{info.name}' is {amount}, which is not a finite amount of at least 0.")
    return value


def _examples(info: CostInfo) -> str:
    if info.family == "other":
        return f"write it like 5{info.unit}, or % of the teacher's"
    units = ", ".join(unit for unit in SUFFIXES[info.family] if unit)
    example = {"count": "2M", "bytes": "512KiB", "time": "0.5ms"}[info.family]
    return f"write it like {example}, units: {units}, or % of the teacher's"
