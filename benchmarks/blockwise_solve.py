"""Time to assemble students for a new limit: from the library, and for a large synthetic network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from blockwise_study import LIMITS, Study

from nas_distill.blockwise.alternatives import Decision, Option
from nas_distill.blockwise.assembler import assemblies
from nas_distill.blockwise.ilp import diverse
from nas_distill.blockwise.library import Library
from nas_distill.costs.budget import Limit
from nas_distill.utils.seeds import numpy_rng

BLOCKS, OPTIONS, STAGES, WIDTHS = 48, 200, 4, (1, 2, 4)
MANY = 12


def measure(study: Study, rounds: int) -> dict[str, Any]:
    """Return seconds by case, one for each round; every round has limits of its own."""
    rng = numpy_rng(0, "blockwise", "solve")
    decisions = made_up()
    most = {
        cost: sum(max(option.costs[cost] for option in decision.options) for decision in decisions)
        for cost in ("flops", "params")
    }
    found: dict[str, list[float]] = {
        "library, best": [],
        "library, twelve": [],
        "made up, best": [],
        "made up, twelve": [],
    }
    for _ in range(rounds):
        share = float(rng.uniform(LIMITS[0], LIMITS[-1]))
        limits = {"flops": Limit(None, share * study.whole)}
        large = {cost: Limit(None, share * value) for cost, value in most.items()}
        for name, count in (("best", 1), ("twelve", MANY)):
            found[f"library, {name}"].append(_seconds(partial(_from_library, study.folder / "library", limits, count)))
            solve = partial(diverse, decisions, large, count=count, overlap=0.8)
            found[f"made up, {name}"].append(_seconds(solve))
    return {"seconds": found, "options": sum(len(decision.options) for decision in decisions)}


def _from_library(folder: Path, limits: Mapping[str, Limit], count: int) -> None:
    assemblies(Library.load(folder), limits, count=count)


def made_up() -> list[Decision]:
    """Return a network of ``BLOCKS`` blocks in ``STAGES`` stages with some ``OPTIONS`` alternatives each."""
    rng = numpy_rng(0, "blockwise", "made up")
    decisions = []
    for block in range(BLOCKS):
        before, after = (f"stage {(block + one) * STAGES // BLOCKS}" for one in (0, 1))
        ends = [(i, o) for i in WIDTHS for o in WIDTHS if before != after or i == o]
        options = []
        for first, last in ends:
            for step in range(1, OPTIONS // len(ends) + 1):
                inner = step * len(ends) / OPTIONS
                size = first * last * inner
                costs = {"flops": float(round(1e6 * size * rng.uniform(0.8, 1.2))), "params": float(round(3e3 * size))}
                score = 0.05 / (inner + 0.05) / last * rng.uniform(0.7, 1.3)
                options.append(Option(f"{first}-{last}-{step}", float(score), costs, {before: first, after: last}))
        decisions.append(Decision(f"block {block}", tuple(options)))
    return decisions


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
