"""Candidates of a search by allocation: judged in worker processes, kept in a file, proposed the best first."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from nas_distill.allocation.judge import CutJudge
from nas_distill.allocation.search import JudgedCut, diverse
from nas_distill.engine.child import CallError, Child
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.space import CutSpace
from nas_distill.spaces import Architecture
from nas_distill.utils.checkpoints import json_digest
from nas_distill.utils.files import write_json

SECONDS = 120.0
"""Least time limit of one judgement."""
_SAVE_EVERY = 32
_AT_LIMIT = 0.6
"""Share of the proposals that spend the whole budget."""


class JudgePool:
    """Judges cuts in worker processes, several at a time, and keeps the results in a file.

    A cut whose network fails, crashes or hangs in its forward pass has an infinite divergence. A file of other
    ``settings`` is not read.

    Args:
        judge: sent to each process.
        space: of the cuts.
        file: of the results.
        settings: all that results depend on, as JSON values.
    """

    def __init__(self, judge: CutJudge, space: CutSpace, file: Path, settings: dict[str, Any], *, workers: int) -> None:
        self._space = space
        self._file = file
        self._digest = json_digest(settings)
        self._known = self._read()
        self._unsaved = 0
        self._children = [Child(judge) for _ in range(workers)]
        self.judged = 0

    def __call__(self, cuts: Sequence[Cut], samples: int) -> list[float]:
        """Return the divergence of each cut over ``samples`` samples, in nats; lower is better."""
        keys = [f"{self._space.encode(cut).hash} {samples}" for cut in cuts]
        missing = [(key, cut) for key, cut in zip(keys, cuts) if key not in self._known]
        if missing:
            free: SimpleQueue[Child] = SimpleQueue()
            for child in self._children:
                free.put(child)

            def judge(cut: Cut) -> float:
                child = free.get()
                try:
                    return self._ask(child, cut, samples)
                finally:
                    free.put(child)

            with ThreadPoolExecutor(len(self._children)) as pool:
                scores = list(pool.map(judge, [cut for _, cut in missing]))
            self._known.update(zip((key for key, _ in missing), scores))
            self._unsaved += len(missing)
            if self._unsaved >= _SAVE_EVERY:
                self.save()
        self.judged += len(missing) * samples
        return [self._known[key] for key in keys]

    def save(self) -> None:
        """Write the results to the file."""
        found = {key: score if math.isfinite(score) else None for key, score in self._known.items()}
        write_json(self._file, {"settings": self._digest, "divergences": found})
        self._unsaved = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """End the processes, and save, after the ``with`` block."""
        with ExitStack() as stack:
            for child in self._children:
                stack.enter_context(child)
            try:
                yield
            finally:
                if self._unsaved:
                    self.save()

    def _ask(self, child: Child, cut: Cut, samples: int) -> float:
        try:
            return float(child.call("divergence", cut, samples, seconds=SECONDS))
        except CallError:
            child.close()  # what failed may have changed what others use
            return math.inf

    def _read(self) -> dict[str, float]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["settings"] != self._digest:
                return {}
            return {key: math.inf if value is None else float(value) for key, value in content["divergences"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}


class AllocatedCandidates:
    """Proposes the cuts that an allocation search found (implements ``engine.proposals.Assembler``).

    Args:
        space: of the cuts.
        levels: results of ``AllocationSearch.run``.
        count: number of proposals.
        first: proposed before all others: uniform narrowing, with which the search is compared.
    """

    def __init__(
        self, space: CutSpace, levels: Sequence[Sequence[JudgedCut]], *, count: int, first: Sequence[Cut] = ()
    ) -> None:
        at_limit = max(1, round(_AT_LIMIT * count))
        cheaper = [level for level in levels[1:] if level]
        each = math.ceil((count - at_limit) / len(cheaper)) if cheaper else 0
        chosen = [*first, *diverse(levels[0], at_limit if cheaper else count)]
        for level in cheaper:
            chosen += diverse(level, each)
        self._architectures = [space.encode(cut) for cut in dict.fromkeys(chosen)][:count]

    origin = "allocated"

    @property
    def exclusive(self) -> bool:
        """True: the search ends with these proposals."""
        return True

    def propose(self, scored: Sequence[tuple[Architecture, float]], seen: Collection[str]) -> Architecture | None:
        """Return the next candidate, None when there are no more; see ``Assembler``."""
        return next((one for one in self._architectures if one.hash not in seen), None)
