"""Values at a fraction of a domain, from its cheap to its dear end."""

from __future__ import annotations

import math

import numpy as np

from nas_distill.space.architecture import Scalar
from nas_distill.space.parameters import Domain


def near(name: str, domain: Domain, *, fraction: float, reach: float, rng: np.random.Generator) -> Scalar:
    """Answer ``SearchSpace.draw`` with the value at ``fraction``, give or take ``reach`` at random.

    Fraction 0 is the cheap end and 1 the dear one. A choice of anything but numbers has no ends to lie between: it is
    drawn uniformly.
    """
    if not is_ordered(domain):
        return domain.at(int(rng.integers(len(domain))))
    position = fraction + rng.uniform(-reach, reach)
    index = math.floor(position * len(domain))
    return domain.at(min(max(index, 0), len(domain) - 1))


def at_share(name: str, domain: Domain, *, fraction: float) -> Scalar:
    """Answer ``SearchSpace.draw`` with the value at ``fraction``; the last one where a domain has no order."""
    return domain.at(
        min(math.floor(fraction * len(domain)), len(domain) - 1) if is_ordered(domain) else len(domain) - 1
    )


def is_ordered(domain: Domain) -> bool:
    """Say whether the values of a domain are numbers, and so have an order."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain.values)
