"""Mutual learning for benchmarks/losses.py: the student and its peers, trained side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from losses_cases import TEMPERATURE, space_of

from nas_distill.config import TrainingConfig
from nas_distill.data import Dataset
from nas_distill.distill import Distiller
from nas_distill.distill.mutual import MutualSignal, advance_mutual, connect_peers
from nas_distill.engine.evaluator import write_student
from nas_distill.engine.work import RungResult, Work, last_rung
from nas_distill.export.provenance import Provenance
from nas_distill.spaces import NetworkBuilder
from nas_distill.teacher import TeacherSignal


@dataclass(frozen=True)
class MutualEvaluator:
    """Starts trainings of several networks that teach each other: the student's, then its peers', by name."""

    data: Dataset
    networks: tuple[str, ...]
    signal: TeacherSignal

    def start(self, work: Work) -> MutualRun:
        return MutualRun(self, work)


class MutualRun:
    """The student and its peers in training; it reports on the student. Each training is short: none is resumed."""

    def __init__(self, evaluator: MutualEvaluator, work: Work) -> None:
        self._networks = evaluator.networks
        self._work = work
        self._rung = 0
        self._distillers = side_by_side(
            evaluator.data, evaluator.networks, work.training, evaluator.signal, seed=work.seed
        )

    def next_rung(self) -> RungResult:
        rung, work, student = self._rung, self._work, self._distillers[0]
        advance_mutual(self._distillers, round(work.rungs[rung] * student.total_steps))
        qualities = [distiller.quality() for distiller in self._distillers]
        finite = all(math.isfinite(quality) for quality in qualities)
        if rung == last_rung(work) and finite:
            self._write(qualities)
        self._rung = rung + 1
        seconds = sum(distiller.seconds for distiller in self._distillers)
        return RungResult(rung, student.step, qualities[0] if finite else math.nan, seconds)

    def close(self) -> None:
        self._distillers.clear()

    def _write(self, qualities: Sequence[float]) -> None:
        """Write all as students, the peers' folders named after the student's."""
        work, student = self._work, self._networks[0]
        assert work.output is not None
        for name, distiller, quality in zip(self._networks, self._distillers, qualities, strict=True):
            key = work.key if name == student else peer_key(work.key, name)
            space = space_of(name)
            write_student(
                work.output.with_name(key),
                distiller,
                space.smallest(),
                space,
                quality=quality,
                provenance=Provenance(
                    kind="mutual",
                    key=key,
                    trial=key,
                    students=tuple(other for other in self._networks if other != name),
                ),
                seed=work.seed,
            )


def peer_key(key: str, network: str) -> str:
    """Return the name of a peer of the student ``key``."""
    return f"{key}-{network}"


def side_by_side(
    data: Dataset, networks: Sequence[str], training: TrainingConfig, signal: TeacherSignal, *, seed: int
) -> list[Distiller]:
    """Make the trainings of ``networks``, introduced to each other, as ``nas-distill mutual`` makes those of trials.

    All have the same seed, so that the student's initial weights, order and views are those of its other trainings.
    """
    signals = [MutualSignal(signal, TEMPERATURE) for _ in networks]
    distillers = []
    for name, own in zip(networks, signals, strict=True):
        space = space_of(name)
        model = NetworkBuilder.of(space, data).build(space.smallest(), seed)
        distillers.append(Distiller(model, data, training, signal=own, seed=seed))
    connect_peers(distillers, signals)
    return distillers
