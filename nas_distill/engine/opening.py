"""What a search settles once, when it begins, and finds again in the journal when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping

from nas_distill.config import SearchConfig
from nas_distill.cost.budget import Budget
from nas_distill.engine.dominance import Dominance, Rule
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.pricing import Pricing
from nas_distill.engine.seeding import choose_seeds
from nas_distill.run.journal import Journal
from nas_distill.space import Architecture, SearchSpace


def first_candidates(
    journal: Journal, space: SearchSpace, pricing: Pricing, *, search: SearchConfig, by: str, seed: int
) -> list[Architecture]:
    """Return the architectures to try first; ``by`` is the cost along which they are spread."""
    known = journal.metadata.first_candidates
    if known is None:
        chosen = choose_seeds(space, pricing, count=search.seeds, by=by, seed=seed)
        known = tuple(architecture.to_dict() for architecture in chosen)
        journal.note(first_candidates=known)
    return [Architecture(values) for values in known]


def reference_costs(
    journal: Journal, given: Mapping[str, float], pricing: Pricing, *, costs: tuple[str, ...]
) -> dict[str, float]:
    """Return, for each cost objective, the largest value that counts in the hypervolume.

    In this order: the journal's, the one given, the budget's upper limit, the dearest of the first candidates.
    """
    if not journal.metadata.reference:
        found = {}
        for name in costs:
            limit = pricing.budget.limits.get(name)
            choices = (given.get(name), limit and limit.high, pricing.largest(name), 1.0)
            found[name] = next(float(choice) for choice in choices if choice)
        journal.note(reference=found)
    return dict(journal.metadata.reference)


def note_decisions(journal: Journal, objectives: Objectives, budget: Budget, rule: Rule) -> None:
    """Write down what the trials are judged by."""
    journal.note(objectives=objectives.names, budget=budget.to_dict())
    if isinstance(rule, Dominance):
        journal.note(margin=rule.margin)
