"""How well local scores of blocks ranked the students that were assembled of them."""

from __future__ import annotations

from nas_distill.evaluate.intervals import RankCorrelation
from nas_distill.run.facts import BlockWeightsRecord


def local_ranking(found: BlockWeightsRecord) -> str:
    """Return a sentence on the rank correlation of local scores with short scores.

    ``found.plain`` is that of the sum of local scores, ``found.fitted`` that of predictions by fitted weights, of
    students left out of the fit. Higher is better.
    """

    def text(one: RankCorrelation) -> str:
        return f"{one.tau:.2f} ({one.low:.2f} to {one.high:.2f})"

    return (
        f"Local scores of blocks ranked {found.plain.count} assembled students with tau {text(found.plain)}, "
        f"with weights fitted to the others {text(found.fitted)}; candidates were ranked by short distillation."
    )
