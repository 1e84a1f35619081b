"""How well local scores of blocks ranked the students that were assembled of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def local_ranking(found: Mapping[str, Any]) -> str:
    """Return a sentence on the rank correlation of local scores with short scores.

    Args:
        found: ``plain`` and ``fitted``, each with ``tau``, ``low``, ``high`` (95 % interval) and ``count``: of the sum
            of local scores, and of predictions by fitted weights of students left out of the fit. Higher is better.
    """
    plain, fitted = (
        f"{found[name]['tau']:.2f} ({found[name]['low']:.2f} to {found[name]['high']:.2f})"
        for name in ("plain", "fitted")
    )
    return (
        f"Local scores of blocks ranked {found['plain']['count']} assembled students with tau {plain}, "
        f"with weights fitted to the others {fitted}; candidates were ranked by short distillation."
    )
