"""Expected hypervolume improvement where costs are known and only quality is uncertain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

_CELLS = 4096  # most cells of the grid over all costs


def expected_improvement(mean: Array, spread: Array, threshold: Array) -> Array:
    """Return the expected amount by which a Gaussian quality exceeds ``threshold``; higher is better.

    Arguments broadcast; ``spread`` is the standard deviation. Jones et al., J. Global Optimization 13, 1998.
    """
    spread = np.maximum(spread, 1e-12)
    z = (mean - threshold) / spread
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(spread * (z * ndtr(z) + density))


class Staircase:
    """The quality that is reached within each combination of costs, as a step function over a grid of cells.

    The expected hypervolume improvement (Emmerich et al., 2006) of a candidate of costs c is the integral, over all
    costs of at least c, of the expected improvement of its quality on the best one that costs no more. With one
    uncertain dimension it is a sum over cells of a volume times an expected improvement, both in closed form. Without
    costs there is one cell, and it is the expected improvement.

    Args:
        quality: of candidates [N]; higher is better.
        costs: of the same [N, K]; lower is better, on the scale on which volume is measured.
        corner: costs [K] above which nothing counts.
        floor: quality below which nothing counts.
    """

    def __init__(self, quality: Array, costs: Array, corner: Array, floor: float) -> None:
        kept = (costs < corner).all(axis=1) & (quality > floor)
        quality, costs = quality[kept], costs[kept]
        front = undominated(quality, costs)
        quality, costs = quality[front], costs[front]
        count = len(corner)
        lines = int(_CELLS ** (1 / count)) if count else 1
        self._edges = [_edges(costs[:, axis], corner[axis], lines) for axis in range(count)]
        shape = tuple(len(edges) - 1 for edges in self._edges)
        self.best: Array = np.full(shape, floor)
        for value, paid in sorted(zip(quality, costs, strict=True), key=lambda pair: float(pair[0])):
            # Cells from the first whose low edge is not below the costs.
            first = tuple(int(np.searchsorted(edges[:-1], each)) for edges, each in zip(self._edges, paid))
            self.best[tuple(slice(each, None) for each in first)] = value

    def improvement(self, mean: Array, spread: Array, costs: Array) -> Array:
        """Return the expected hypervolume improvement of candidates [N], of Gaussian quality and ``costs`` [N, K]."""
        levels, inverse = np.unique(self.best, return_inverse=True)
        overlap = np.ones((len(mean), 1))
        for axis, edges in enumerate(self._edges):
            covered = np.clip(edges[1:] - np.maximum(edges[:-1], costs[:, axis : axis + 1]), 0.0, None)
            overlap = (overlap[:, :, None] * covered[:, None, :]).reshape(len(mean), -1)
        order = np.argsort(inverse.reshape(-1), kind="stable")
        starts = np.searchsorted(inverse.reshape(-1)[order], np.arange(len(levels)))
        volumes = np.add.reduceat(overlap[:, order], starts, axis=1)
        gains = expected_improvement(mean[:, None], spread[:, None], levels[None, :])
        return np.asarray((volumes * gains).sum(axis=1))


def undominated(quality: Array, costs: Array) -> NDArray[np.intp]:
    """Return the indices of candidates that no other beats, by falling quality; of equals one."""
    losses = np.column_stack([-quality, costs])
    left = np.lexsort(losses.T[::-1])
    found = []
    while len(left):
        found.append(left[0])
        rest = left[1:]
        left = rest[(losses[rest] < losses[left[0]]).any(axis=1)]
    return np.array(found, dtype=np.intp)


def _edges(values: Array, corner: float, lines: int) -> Array:
    """Return the grid lines of one cost: those of the front, thinned out to ``lines``, from below all to the corner."""
    inner = np.unique(values)
    if len(inner) > lines:
        inner = inner[np.unique(np.linspace(0, len(inner) - 1, lines).round().astype(int))]
    # The lowest cell reaches far down, so that candidates cheaper than the whole front count in full.
    return np.concatenate([[-1e6], inner, [corner]])
