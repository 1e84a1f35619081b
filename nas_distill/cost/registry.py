"""The costs that hardware pays: their names, units, what they mean, and how a figure of each is written.

Lower is better for every cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nas_distill.common.errors import BudgetError, did_you_mean

Family = Literal["count", "bytes", "time"]


@dataclass(frozen=True)
class CostInfo:
    """What a cost is.

    ``unit`` is what its plain number is in (empty for a count), ``family`` which suffixes it is written with.
    """

    name: str
    unit: str
    description: str
    family: Family
    integer: bool = True


COSTS: dict[str, CostInfo] = {
    info.name: info
    for info in (
        CostInfo("params", "", "parameters, trained or frozen, each shared one once; no buffers", "count"),
        CostInfo(
            "flops",
            "",
            "fused multiply-adds of one forward pass at batch 1, in convolutions, matrix products, recurrences "
            "and attention; element-wise and normalisation work counts 0",
            "count",
        ),
        CostInfo("weight_bytes", "B", "parameters and persistent buffers as stored, shared ones once", "bytes"),
        CostInfo("peak_activation_bytes", "B", "most activation memory alive at once, batch 1, float32", "bytes"),
        CostInfo("latency_ms", "ms", "median time of one forward pass on ONNX Runtime", "time", integer=False),
    )
}

SUFFIXES: dict[Family, dict[str, float]] = {
    "count": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "bytes": {
        **{"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40},
        **{"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
    },
    "time": {"ms": 1.0, "us": 1e-3, "s": 1e3},
}
"""How amounts of each family may end; values are in the plain unit of the cost."""

_WRITTEN: dict[Family, tuple[str, ...]] = {
    "count": ("", "k", "M", "G", "T"),
    "bytes": ("B", "KiB", "MiB", "GiB", "TiB"),
    "time": ("us", "ms", "s"),
}


def cost_info(name: str) -> CostInfo:
    """Return what is known of a cost.

    Raises:
        BudgetError: there is no such cost; the near name is suggested.
    """
    if name not in COSTS:
        raise BudgetError(f"unknown cost '{name}'{did_you_mean(str(name), COSTS)}")
    return COSTS[name]


def format_cost(name: str, value: float) -> str:
    """Write a cost with three significant digits and its unit: ``"1.25 M"``, ``"512 KiB"``, ``"0.48 ms"``.

    ``parse_amount`` reads it back, to those digits. Times are written in ms, below a hundredth of one in us.

    Raises:
        BudgetError: there is no such cost.
    """
    family = cost_info(name).family
    value = float(value)
    if not math.isfinite(value):
        return f"{value} {COSTS[name].unit}".rstrip()
    sizes = SUFFIXES[family]
    if family == "time":
        suffix = "us" if 0 < abs(value) < 0.01 else "ms"
        return f"{_digits(value / sizes[suffix])} {suffix}"
    suffix = _WRITTEN[family][0]
    for larger in _WRITTEN[family][1:]:
        # 999 999 rounds to 1000 k: compare what would be written, so that it becomes 1 M.
        if float(_digits(value / sizes[suffix])) * sizes[suffix] < sizes[larger]:
            break
        suffix = larger
    return f"{_digits(value / sizes[suffix])} {suffix}".rstrip()


def _digits(value: float) -> str:
    """Write three significant digits, never an exponent for what a person meets, integers whole."""
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.3e}"
