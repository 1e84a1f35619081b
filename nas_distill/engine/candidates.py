"""Candidates built and examined in a worker process: whatever a builder does to that process, this one goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nas_distill.common.disk import first_full, full_sentence
from nas_distill.common.errors import BuildError, StorageError
from nas_distill.engine.child import CallError, CallTimeoutError, Child, ChildDiedError
from nas_distill.space import Architecture, NetworkBuilder

LEAST_SECONDS = 60.0
"""How long building a candidate and looking at it may take at least, before it is given up."""
SLOWER = 20.0
"""By how much it may be slower than the slowest so far."""


class Candidates:
    """Builds the candidates of a space in one worker process, which is kept, and replaced when it dies.

    Args:
        builder: of the candidates.
        seed: of their initial weights.
        seconds: that a candidate may take; a generous multiple of the slowest so far unless given.
        places: folders that are written to; where the process dies while one is full, no candidate is blamed.
    """

    def __init__(
        self,
        builder: NetworkBuilder,
        *,
        seed: int,
        seconds: float | None = None,
        places: Sequence[Path] = (),
    ) -> None:
        self._child: Child | None = None
        self._looking = _Looking(builder, seed)
        self._seconds = seconds
        self._slowest = 0.0
        self._places = places
        self._lost: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, architecture: Architecture, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(network, *arguments)`` for an architecture's network with random weights.

        A process that died is given a second try, since it may have been the fault of what an earlier candidate left
        behind. What was lost is remembered, and not tried again.

        Raises:
            BuildError: building or looking failed; the message is the cause, on one line.
            StorageError: it found a disk full.
        """
        if architecture.hash in self._lost:
            raise BuildError(self._lost[architecture.hash])
        if self._child is None:
            self._child = Child(self._looking)
        died = False
        while True:
            began = time.monotonic()
            limit = self._seconds or max(LEAST_SECONDS, SLOWER * self._slowest)
            try:
                found = self._child.call("look", architecture, function, arguments, seconds=limit)
                self._slowest = max(self._slowest, time.monotonic() - began)
                return found
            except ChildDiedError as error:
                if (place := first_full(self._places)) is not None:
                    raise StorageError(full_sentence(place)) from error
                if died:
                    self._lose(architecture, f"the {error} as the network was built and counted")
                died = True
            except CallTimeoutError as error:
                self._lose(architecture, f"building and counting the network was ended because {error}")
            except CallError as error:
                raise BuildError(str(error)) from None

    def close(self) -> None:
        """End the process; the next look starts another."""
        if self._child is not None:
            self._child.close()

    def _lose(self, architecture: Architecture, cause: str) -> None:
        self._lost[architecture.hash] = cause
        raise BuildError(cause) from None


@dataclass(frozen=True)
class _Looking:
    """Target of the process."""

    builder: NetworkBuilder
    seed: int

    def look(self, architecture: Architecture, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Build a network and apply a function to it."""
        return function(self.builder.build(architecture, self.seed, stream="costing"), *arguments)
