"""Costs of cuts as a polynomial of the kept shares, fitted to counted costs.

Multiply-adds, parameters and bytes of a layer are products of at most two kept shares, that of the units that it reads
and that of those that it makes, times whether its block is kept. So a polynomial with one term per layer and pair of
groups is exact for them, and predicts thousands of cuts per second where counting takes some ten milliseconds each. For
costs of another form, such as latency, it is an approximation; ``errors`` says how good it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from nas_distill.pruning.plan import DROPPED, UNPRUNED, Cut, Plan
from nas_distill.pruning.space import CutSpace
from nas_distill.utils.errors import BuildError
from nas_distill.utils.seeds import numpy_rng

EXACT = 1e-6
"""Relative error up to which a cost counts as known exactly."""
_MARGIN = 1.3
_SPARE = 24
_HELD_OUT = 8
_FAILURES = 20

Count = Callable[[Cut], Mapping[str, float]]


class ShareVector:
    """Layout of a cut as numbers: 1, the kept share of each group, and an indicator per block and replacement."""

    def __init__(self, space: CutSpace) -> None:
        self.plan = space.plan
        self.groups = {group.name: 1 + place for place, group in enumerate(space.plan.groups)}
        first = 1 + len(self.groups)
        kinds = [(b, kind) for b, choices in enumerate(space.choices) for kind in choices if kind != DROPPED]
        self.kinds = {pair: first + place for place, pair in enumerate(kinds)}
        self._sizes = {group.name: group.size for group in space.plan.groups}

    def of(self, cut: Cut) -> np.ndarray:
        """Return the vector of a cut; groups in dropped or replaced blocks are 0."""
        vector = np.zeros(1 + len(self.groups) + len(self.kinds))
        vector[0] = 1.0
        for name, width in cut.widths.items():
            vector[self.groups[name]] = width / self._sizes[name]
        for block, kind in enumerate(cut.blocks):
            if kind != DROPPED:
                vector[self.kinds[block, kind]] = 1.0
        return vector


@dataclass(frozen=True)
class CostPolynomial:
    """Predicts costs of cuts; see ``fit``.

    Attributes:
        layout: of cuts as vectors.
        terms: (T, 3) indices into a vector; a term is the product of the three entries.
        coefficients: (T,) by cost name.
        errors: by cost name, the largest relative error over cuts that were not fitted to.
    """

    layout: ShareVector
    terms: np.ndarray
    coefficients: Mapping[str, np.ndarray]
    errors: Mapping[str, float]

    def values(self, vector: np.ndarray) -> dict[str, float]:
        """Return the predicted costs of the cut that a vector of ``layout`` represents."""
        products = self._products(vector)
        return {name: float(products @ weights) for name, weights in self.coefficients.items()}

    def predict(self, cut: Cut) -> dict[str, float]:
        """Return the predicted costs of a cut."""
        return self.values(self.layout.of(cut))

    def is_exact(self, name: str) -> bool:
        """Return whether predictions of a cost equal counted ones."""
        return self.errors[name] <= EXACT

    def _products(self, vector: np.ndarray) -> np.ndarray:
        products: np.ndarray = vector[self.terms].prod(axis=1)
        return products

    @classmethod
    def fit(cls, space: CutSpace, count: Count, names: Sequence[str], *, seed: int = 0) -> CostPolynomial:
        """Return the polynomial fitted to the costs of random cuts, by least squares.

        Args:
            space: of the cuts.
            count: returns the costs of a cut.
            names: of the costs.
            seed: of the random cuts.

        Raises:
            BuildError: too many of the cuts could not be counted.
        """
        layout = ShareVector(space)
        terms = np.array(sorted(_terms(layout, space)))
        rng = numpy_rng(seed, "cost polynomial")
        wanted = int(_MARGIN * len(terms)) + _SPARE + _HELD_OUT
        vectors: list[np.ndarray] = []
        costs: list[dict[str, float]] = []
        failures = 0
        while len(vectors) < wanted:
            cut = random_cut(space, rng)
            try:
                costs.append(dict(count(cut)))
            except BuildError:
                failures += 1
                if failures > _FAILURES + len(vectors):
                    raise
                continue
            vectors.append(layout.of(cut))
        products = np.array(vectors)[:, terms].prod(axis=2)
        fitted, held_out = products[_HELD_OUT:], products[:_HELD_OUT]
        coefficients, errors = {}, {}
        for name in names:
            values = np.array([each[name] for each in costs])
            # In relative terms, so that small cuts count as much as large ones.
            scale = 1 / np.maximum(np.abs(values[_HELD_OUT:]), 1e-12)
            weights = np.linalg.lstsq(fitted * scale[:, None], values[_HELD_OUT:] * scale, rcond=None)[0]
            true = values[:_HELD_OUT]
            coefficients[name] = weights
            errors[name] = float((np.abs(held_out @ weights - true) / np.maximum(np.abs(true), 1e-12)).max())
        return cls(layout, terms, coefficients, errors)


def random_cut(space: CutSpace, rng: np.random.Generator) -> Cut:
    """Return a random cut of a space; about a quarter of its droppable blocks are dropped."""
    cut = space.unpruned
    drops = int(rng.binomial(len(space.depth_order), 0.25)) if space.depth_order else 0
    for block in space.depth_order[:drops]:
        cut = space.with_replacement(cut, block, DROPPED)
    for block, choices in enumerate(space.choices):
        others = [kind for kind in choices if kind not in (UNPRUNED, DROPPED)]
        if block not in space.depth_order and DROPPED in choices and rng.random() < 0.25:
            cut = space.with_replacement(cut, block, DROPPED)
        elif others and cut.blocks[block] != DROPPED and rng.random() < 0.4:
            cut = space.with_replacement(cut, block, str(rng.choice(others)))
    widths = {name: int(rng.choice(space.widths[name])) for name in cut.widths}
    return Cut(widths, cut.blocks, cut.start)


def _terms(layout: ShareVector, space: CutSpace) -> set[tuple[int, int, int]]:
    """Return the products that costs may depend on, as indices of a vector."""
    plan = space.plan
    terms = {(0, 0, 0)}
    for block, pairs in _pairs(plan).items():
        kept = 0 if block is None else layout.kinds[block, UNPRUNED]
        terms.add((0, 0, kept))
        for one, other in pairs:
            first, second = sorted((layout.groups[one], layout.groups[other]))
            terms |= {(0, first, kept), (0, second, kept), (first, second, kept)}
    for (block, kind), place in layout.kinds.items():
        if kind == UNPRUNED:
            continue
        inside = [layout.groups[name] for name in (plan.blocks[block].input, plan.blocks[block].output) if name]
        for first, second in combinations_with_replacement(sorted({0, *inside}), 2):
            terms.add((first, second, place))
    return terms


def _pairs(plan: Plan) -> dict[int | None, set[tuple[str, str]]]:
    """Return pairs of groups whose shares may be multiplied, by block (None outside of the blocks).

    Inside of a block they are all pairs, since its layers may mix several dimensions (tokens and channels of a mixer).
    Outside of the blocks, where there may be many groups, they are the groups that one layer reads and makes.
    """
    reads: dict[str, set[str]] = {}
    makes: dict[str, set[str]] = {}
    for group in plan.groups:
        for slot in group.slots:
            (reads if slot.side == "in" else makes).setdefault(slot.module, set()).add(group.name)
    inside: dict[int | None, set[str]] = {index: set() for index in range(len(plan.blocks))}
    pairs: dict[int | None, set[tuple[str, str]]] = {None: set()}
    for module in {*reads, *makes}:
        block = _block_of(plan, module)
        names = {*reads.get(module, ()), *makes.get(module, ())}
        if block is None:
            pairs[None] |= {(name, name) for name in names}
            pairs[None] |= {(one, other) for one in reads.get(module, ()) for other in makes.get(module, ())}
        else:
            inside[block] |= names
    return pairs | {block: set(combinations_with_replacement(sorted(names), 2)) for block, names in inside.items()}


def _block_of(plan: Plan, module: str) -> int | None:
    inside = (i for i, block in enumerate(plan.blocks) if f"{module}.".startswith(f"{block.module}."))
    return next(inside, None)
