"""What architectures cost: the costs callable with a memory, and what it returns checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from nas_distill.common.errors import BuildError
from nas_distill.space import Architecture

Costs = Callable[[Architecture], Mapping[str, float]]


class Pricer:
    """Gives an architecture's costs (lower is better), asking ``costs`` once for each."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._known: dict[str, dict[str, float]] = {}

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs by name.

        Raises:
            BuildError: a cost is not finite. Whatever the callable raises passes through.
        """
        if architecture.hash not in self._known:
            found = {name: float(value) for name, value in self._costs(architecture).items()}
            for name, value in found.items():
                if not math.isfinite(value):
                    raise BuildError(f"its {name} is {value}, which is no cost.")
            self._known[architecture.hash] = found
        return dict(self._known[architecture.hash])

    def largest(self, name: str) -> float | None:
        """Return the largest value of a cost seen so far, None before the first."""
        return max((costs[name] for costs in self._known.values()), default=None)
