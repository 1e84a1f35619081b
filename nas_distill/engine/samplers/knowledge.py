"""Arguments that a sampler may ask for by the names of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives
from nas_distill.spaces import Architecture, SearchSpace

PastState = Literal["open", "complete", "stopped", "over_budget", "failed"]


@dataclass
class Past:
    """An earlier proposal: its costs by name (lower is better), and its qualities by rung (higher is better).

    ``costs`` is empty where the network could not be built, ``scores`` where nothing was reported. The score of a
    complete candidate at its highest rung is its quality; one that is ``open`` or ``stopped`` may have some scores.
    Every proposal has its own, also one that repeats an earlier architecture, which has no scores itself.
    """

    architecture: Architecture
    costs: dict[str, float] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    state: PastState = "open"


@dataclass(frozen=True)
class Knowledge:
    """The arguments that a sampler gets by name, each if its signature has it.

    Args:
        seed: of its randomness; differs by proposal.
        trials: candidates to train in the whole search.
        dimensions: parameters of the largest architecture.
        space: the search space; ``draw``, ``flatten`` and ``every`` make and read architectures.
        pricing: exact costs of any architecture (``known``, None for one that cannot be built), and the ``budget``.
            Counting takes milliseconds to seconds per architecture, and is remembered only within a session.
        objectives: quality and the costs that are minimised, or a scalar reward of both.
        history: the proposals so far, by their numbers in the study.
    """

    seed: int
    trials: int
    dimensions: int
    space: SearchSpace
    pricing: Pricing
    objectives: Objectives
    history: Sequence[Past] = ()
