"""A sampler for costs that are known before training: only quality is uncertain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from pydantic import Field

from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.parameters import ArchitectureSampler
from nas_distill.engine.samplers.acquisition import Staircase, expected_improvement, undominated
from nas_distill.engine.samplers.fidelity import Estimates, estimate
from nas_distill.engine.samplers.knowledge import Past
from nas_distill.engine.samplers.pool import Encoding, Member, PoolMaker, member
from nas_distill.engine.samplers.registry import sampler
from nas_distill.engine.samplers.surrogate import CostSurrogate, QualitySurrogate
from nas_distill.spaces import Architecture, SearchSpace

Array = NDArray[np.float64]

_LEARNED = 256  # most observations that the surrogates learn from: the front, the latest, and random others
_FLOOR = 0.1  # quantile of the qualities below which nothing counts in the hypervolume
_GAP = 0.1  # of the distance from the median quality to the best: what is left to gain at the best
_BEYOND = 0.1  # of the range of log costs: what is added to the limits in the hypervolume
_NEAR = 0.1  # log excess over a limit, as predicted, at which a candidate is rarely worth counting
_STEPS = 8  # candidates nearest to the limits that are varied while none fits
_TINY = 1e-9


@sampler("known_cost")
def known_cost(
    *,
    seed: int,
    space: SearchSpace,
    pricing: Pricing,
    objectives: Objectives,
    history: Sequence[Past],
    startup: Annotated[int, Field(ge=2)] = 10,
    pool: Annotated[int, Field(ge=10)] = 200,
    pricings: Annotated[int, Field(ge=1)] = 32,
) -> BaseSampler:
    """Expected hypervolume improvement at exact costs: a Gaussian process over what cost does not explain of quality.

    Args:
        startup: candidates with a score before the first model
        pool: architectures that are compared per proposal
        pricings: architectures per proposal whose costs are counted, at most
    """
    return _KnownCost(
        space, pricing, objectives, history, rng=np.random.default_rng(seed), startup=startup, size=pool, most=pricings
    )


Priced = tuple[Member, dict[str, float]]


class _KnownCost(ArchitectureSampler):
    """Proposes one architecture; everything follows from the history and ``rng``."""

    def __init__(
        self,
        space: SearchSpace,
        pricing: Pricing,
        objectives: Objectives,
        history: Sequence[Past],
        *,
        rng: np.random.Generator,
        startup: int,
        size: int,
        most: int,
    ) -> None:
        super().__init__(space)
        self._pricing, self._objectives = pricing, objectives
        self._history, self._rng = history, rng
        self._startup, self._size, self._most = startup, size, most
        self._minimised = objectives.compared
        self._names = tuple(dict.fromkeys([*self._minimised, *pricing.budget.names]))

    def propose(self) -> Architecture:
        """Return the architecture of the largest expected improvement."""
        return self._propose().architecture

    def _propose(self) -> Member:
        past: dict[str, Past] = {}
        for each in self._history:
            past.setdefault(each.architecture.hash, each)
        maker = PoolMaker(self._space, past.keys(), self._rng)
        known = [each for each in past.values() if each.costs]
        estimates = estimate([each for each in known if each.state != "over_budget"])
        learned = estimates is not None and len(estimates.past) >= self._startup
        size = self._space.size()
        if size.exact and size.count <= 2 * self._size:
            pool, self._most = maker.every(), size.count
        else:
            pool = maker.random(self._size // 3 if known else self._size)
            parents = self._front(estimates) if estimates is not None else self._nearest(known)
            pool += maker.children([member(self._space, each) for each in parents], self._size - len(pool))
        if not pool:
            return member(self._space, self._space.sample(self._rng))  # all were seen, or nearly all
        if estimates is None or not learned:
            return self._any(pool, known)
        return self._best(pool, known, estimates)

    def _any(self, pool: list[Member], known: list[Past]) -> Member:
        """Return the first member that fits, in the order of predicted excess where there is a prediction."""
        order = np.arange(len(pool))
        if len(known) > 1 and self._pricing.budget.limits:
            _, costs = self._predicted_costs(pool, known)
            order = np.argsort(self._excess(costs), kind="stable")
        return self._fitting(pool, order, 1)[0][0]

    def _best(self, pool: list[Member], known: list[Past], estimates: Estimates) -> Member:
        """Return the member of the largest expected improvement, at exact costs."""
        chosen = self._learned(estimates)
        members = [member(self._space, estimates.past[index].architecture) for index in chosen]
        paid = self._logs([estimates.past[index].costs for index in chosen])[:, : len(self._minimised)]
        pending = [each for each in known if each.state == "open" and not each.scores][-_LEARNED:]
        under_way = [member(self._space, each.architecture) for each in pending]
        encoding, guessed = self._predicted_costs(pool, known, [*members, *under_way])
        gain = self._gain(estimates, chosen, encoding.rows(members), paid, encoding, under_way, pending)
        rows = encoding.rows(pool)
        screened = gain(rows, guessed[:, : len(self._minimised)]) * np.exp(-self._excess(guessed) / _NEAR)
        fitting = self._fitting(pool, np.argsort(-screened, kind="stable"), max(1, self._most // 2))
        if len(fitting) == 1:
            return fitting[0][0]
        exact = self._logs([costs for _, costs in fitting])[:, : len(self._minimised)]
        return fitting[int(np.argmax(gain(encoding.rows([each for each, _ in fitting]), exact)))][0]

    def _gain(
        self,
        estimates: Estimates,
        chosen: list[int],
        rows: Array,
        paid: Array,
        encoding: Encoding,
        under_way: list[Member],
        pending: list[Past],
    ) -> Callable[[Array, Array], Array]:
        """Return the function from rows and log costs of candidates to their expected improvement."""
        quality, variance = estimates.quality[chosen], estimates.variance[chosen]
        scalar = self._objectives.scalar
        if scalar is None:
            # Differences near the best count more than those far below it.
            gap = _GAP * max(float(quality.max() - np.median(quality)), _TINY)
            left = quality.max() + gap - quality
            quality, variance = -np.log(left / gap), variance / left**2
        model = QualitySurrogate(rows, paid, quality, variance, encoding.parameters)
        # The qualities that are to be exceeded are as uncertain as their scores are noisy.
        reached, _ = model.predict(rows, paid)
        if under_way:
            more = self._logs([each.costs for each in pending])[:, : len(self._minimised)]
            reached = np.concatenate([reached, model.believe(encoding.rows(under_way), more)])
            paid = np.vstack([paid, more])
        if scalar is not None:
            name = self._minimised[0]
            best = max(scalar.reward(q, {name: c}) for q, c in zip(reached.tolist(), np.exp(paid[:, 0]).tolist()))

            def reward(candidates: Array, costs: Array) -> Array:
                mean, spread = model.predict(candidates, costs)
                per_unit = np.array([scalar.reward(1.0, {name: cost}) for cost in np.exp(costs[:, 0])])
                per_unit = np.where(mean >= 0, per_unit, 1 / per_unit)
                return expected_improvement(mean * per_unit, spread * per_unit, np.array(best))

            return reward
        stairs = Staircase(reached, paid, self._corner(paid), float(np.quantile(quality, _FLOOR)))

        def volume(candidates: Array, costs: Array) -> Array:
            mean, spread = model.predict(candidates, costs)
            return stairs.improvement(mean, spread, costs)

        return volume

    # Candidates so far.

    def _front(self, estimates: Estimates) -> list[Architecture]:
        costs = self._logs([each.costs for each in estimates.past])[:, : len(self._minimised)]
        quality = estimates.quality
        if self._objectives.scalar is not None:
            rewards = [
                self._objectives.values(value, each.costs)[0]
                for value, each in zip(quality.tolist(), estimates.past, strict=True)
            ]
            return [estimates.past[index].architecture for index in np.argsort(rewards)[::-1][:_STEPS]]
        return [estimates.past[index].architecture for index in undominated(quality, costs)]

    def _nearest(self, known: list[Past]) -> list[Architecture]:
        excess = self._excess(self._logs([each.costs for each in known]))
        return [known[index].architecture for index in np.argsort(excess, kind="stable")[:_STEPS]]

    def _learned(self, estimates: Estimates) -> list[int]:
        """Return the indices to learn from: all, or the front, the latest and random others of many."""
        count = len(estimates.past)
        if count <= _LEARNED:
            return list(range(count))
        costs = self._logs([each.costs for each in estimates.past])[:, : len(self._minimised)]
        kept = dict.fromkeys(undominated(estimates.quality, costs)[: _LEARNED // 4].tolist())
        kept |= dict.fromkeys(range(count - _LEARNED // 4, count))
        for index in self._rng.permutation(count).tolist():
            if len(kept) >= _LEARNED:
                break
            kept[index] = None
        return sorted(kept)

    # Costs.

    def _fitting(self, pool: list[Member], order: NDArray[np.intp], wanted: int) -> list[Priced]:
        """Count costs in order until ``wanted`` fit; return these, or the first member where none of them does."""
        fitting: list[Priced] = []
        for index in order[: self._most]:
            costs = self._pricing.known(pool[index].architecture)
            if costs is not None and self._pricing.budget.fits(costs):
                fitting.append((pool[index], costs))
                if len(fitting) == wanted:
                    break
        return fitting or [(pool[order[0]], {})]

    def _predicted_costs(
        self, pool: list[Member], known: list[Past], further: Sequence[Member] = ()
    ) -> tuple[Encoding, Array]:
        """Return the encoding of ``pool`` and ``further``, and the predicted log costs of ``pool``."""
        counted = known[-_LEARNED:]
        members = [member(self._space, each.architecture) for each in counted]
        encoding = Encoding([*members, *further, *pool])
        model = CostSurrogate(encoding.rows(members), self._logs([each.costs for each in counted]), encoding.parameters)
        return encoding, model.predict(encoding.rows(pool))

    def _logs(self, costs: Sequence[Mapping[str, float]]) -> Array:
        """Return the logarithms of all costs that matter [N, K], those that are minimised first."""
        found = np.array([[each[name] for name in self._names] for each in costs], dtype=float)
        logs: Array = np.log(np.maximum(found.reshape(len(costs), len(self._names)), _TINY))
        return logs

    def _excess(self, costs: Array) -> Array:
        """Return by how much log costs [N, K] violate the limits, in all [N]."""
        found = np.zeros(len(costs))
        for name, limit in self._pricing.budget.limits.items():
            column = costs[:, self._names.index(name)]
            if limit.high is not None:
                found += np.maximum(0.0, column - np.log(max(limit.high, _TINY)))
            if limit.low is not None:
                found += np.maximum(0.0, np.log(max(limit.low, _TINY)) - column)
        return found

    def _corner(self, costs: Array) -> Array:
        """Return the log costs above which nothing counts: somewhat above the limits, or the largest so far.

        At the limit itself even the best quality would have no volume.
        """
        corner = costs.max(axis=0)
        for place, name in enumerate(self._minimised):
            limit = self._pricing.budget.limits.get(name)
            if limit is not None and limit.high is not None:
                corner[place] = np.log(max(limit.high, _TINY))
        return np.asarray(corner + np.maximum(_BEYOND * (corner - costs.min(axis=0)), _TINY))
