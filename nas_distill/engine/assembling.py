"""Who puts candidates together of blocks that were distilled before the search, instead of a sampler."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from nas_distill.space import Architecture


class Assembler(Protocol):
    """Proposes candidates; what it proposes depends on its arguments alone, so that a resumed search goes on alike."""

    @property
    def alone(self) -> bool:
        """Whether the search ends with its proposals; otherwise seeds and sampler follow."""
        ...

    def propose(self, scored: Sequence[tuple[Architecture, float]], seen: Collection[str]) -> Architecture | None:
        """Return the next candidate, None when there are no more.

        Args:
            scored: candidates that were trained to their last rung, with their quality (higher is better), in the order
                in which they were proposed.
            seen: hashes of all that were proposed so far, which it does not propose again.
        """
        ...
