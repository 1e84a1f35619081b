"""Noise probe: one candidate trained under several seeds, to set the stopping margin."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np

from nas_distill.config import ScoreConfig
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.runs.folder import RunFolder
from nas_distill.spaces import Architecture
from nas_distill.utils.errors import RunError
from nas_distill.utils.seeds import derive


class NoiseProbe:
    """Hands out the same candidate under ``seeds`` seeds; a WorkSource. Afterwards ``margins`` says what came of it."""

    def __init__(
        self, folder: RunFolder, architecture: Architecture, score: ScoreConfig, *, seeds: int, seed: int
    ) -> None:
        self.stopping = False
        self._folder = folder
        self._rungs = score.rungs
        base = Work(
            key="probe",
            architecture=architecture,
            training=score.training,
            rungs=score.rungs,
            seed=0,
            checkpoint=folder.checkpoint("probe"),
        )
        self._waiting = [
            replace(
                base,
                key=f"probe-{index}",
                seed=derive(seed, "probe", index),
                checkpoint=folder.checkpoint(f"probe-{index}"),
            )
            for index in range(seeds)
        ]
        self._qualities: dict[str, dict[int, float]] = {}
        self._causes: list[str] = []

    def stop(self) -> None:
        """Hand out no more, and let what is in flight end as interrupted."""
        self.stopping = True

    def next(self) -> Work | None:
        """Return the candidate under the next seed."""
        return self._waiting.pop(0) if self._waiting and not self.stopping else None

    def report(self, key: str, result: RungResult) -> bool:
        """Note a quality."""
        self._qualities.setdefault(key, {})[result.rung] = result.quality
        # Also when stopping: the backend then ends it as interrupted, and its checkpoint is kept.
        return True

    def finish(self, key: str, outcome: Outcome) -> None:
        """Note how a training ended."""
        if outcome.kind == "failed":
            self._causes.append(outcome.cause or "unknown")
        if outcome.kind not in ("interrupted", "stopped"):
            shutil.rmtree(self._folder.checkpoint(key), ignore_errors=True)

    def margins(self, z: float) -> tuple[float, ...]:
        """Return, for each rung, ``z`` sample standard deviations of the quality over the seeds.

        Raises:
            RunError: fewer than two seeds gave a quality at some rung.
        """
        found = []
        for rung in range(len(self._rungs)):
            values = [qualities[rung] for qualities in self._qualities.values() if rung in qualities]
            values = [value for value in values if math.isfinite(value)]
            if len(values) < 2:
                cause = f" ({self._causes[0].rstrip('.')})" if self._causes else ""
                raise RunError(
                    f"the noise of a score could not be measured: the probe's trainings failed{cause}; set "
                    "search.pruning.margin to a number."
                )
            found.append(z * float(np.std(values, ddof=1)))
        return tuple(found)
