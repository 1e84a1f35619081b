"""Untrained cuts judged per second, on one core: how many a search by allocation can look at.

For the shipped teacher and one of 27 blocks (random weights take as long as trained ones): the time to make a
reconstructed cut, to run it on 128 samples, and both together, for the cuts that a search looks at. The alternative is
what a search without this judge does: the batch norms estimated again, then accuracy on the 2,000 validation images.

    python benchmarks/judging.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

import torch
from common import Quartiles, interleaved, parser, publish, ratios, table

from nas_distill.allocation.filling import Filler
from nas_distill.allocation.judge import CutJudge
from nas_distill.allocation.moves import Moves
from nas_distill.allocation.polynomial import CostPolynomial
from nas_distill.config import AllocationConfig, FromTeacherConfig, TeacherSource
from nas_distill.costs.counting import count
from nas_distill.data import Dataset, load_dataset
from nas_distill.evaluate.predict import predict_logits
from nas_distill.models import resnet
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import make_inheritance
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.surgery import prune, structure_of
from nas_distill.study.cutting import FINE_MULTIPLE, FINE_WIDTHS
from nas_distill.teacher import Teacher, freeze, load_teacher
from nas_distill.teacher.signal import LiveSignal
from nas_distill.utils.seeds import numpy_rng, seeded_torch

SHARES = (0.1, 0.2)
CUTS = 12


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    data = load_dataset("fashion-mnist")
    rounds = 1 if options.quick else 12
    rows = [
        _row(name, share, _cases(teacher, data, share), rounds)
        for name, teacher in (("shipped, 3 blocks", _shipped(data)), ("27 blocks", _deep(data)))
        for share in SHARES
    ]
    samples = AllocationConfig().samples
    heads = [
        "teacher",
        "FLOPs",
        "make a cut, ms",
        f"judge on {samples}, ms",
        "judged per second",
        "by validation accuracy, ms",
        "times as long",
    ]
    about = (
        f"Medians (quartiles) over {rounds} rounds, one thread; in each round every case has another of {CUTS} cuts "
        "that a search looks at. A judgement makes the reconstructed cut and compares its answers with the teacher's. "
        "By validation accuracy, batch norms are estimated again on 1,024 samples, and all validation images are read."
    )
    publish("judging", "Judging untrained cuts", [about, table(heads, rows)], options)


def _row(name: str, share: float, cases: dict[str, Callable[[], float]], rounds: int) -> list[str]:
    found = interleaved(cases, rounds)
    milliseconds = {case: Quartiles.of([1000 * value for value in values]).text(0) for case, values in found.items()}
    per_second = Quartiles.of([1 / value for value in found["judge"]]).text(1)
    times = ratios(found, "accuracy", "judge").text(1)
    return [
        name,
        f"{share:.0%}",
        milliseconds["make"],
        milliseconds["judge"],
        per_second,
        milliseconds["accuracy"],
        times,
    ]


def _cases(teacher: Teacher, data: Dataset, share: float) -> dict[str, Callable[[], float]]:
    plan = find_plan(teacher.module, data.input_shape)
    space = CutSpace.from_plan(plan, widths=FINE_WIDTHS, multiple=FINE_MULTIPLE)
    inheritance = make_inheritance(teacher, space, data, FromTeacherConfig())
    samples = AllocationConfig().samples
    judge = CutJudge.make(inheritance, LiveSignal(teacher), samples)

    def costs(cut: Cut) -> dict[str, float]:
        return dict(count(prune(structure_of(teacher.module), plan, cut.units(plan)), data.input_shape, ["flops"]))

    limit = share * costs(space.unpruned)["flops"]
    moves = Moves(Filler(space, CostPolynomial.fit(space, costs, ["flops"]), {"flops": limit}))
    rng = numpy_rng(0, "judging")
    cuts = list(moves.starts())
    while len(cuts) < CUTS:
        found = moves.neighbour(cuts[int(rng.integers(len(cuts)))], rng)
        cuts += [found] if found is not None else []

    def accuracy(cut: Cut) -> None:
        network = inheritance.pruned_teacher(cut)
        inheritance.recalibrate_batch_norm(network)
        predict_logits(network, data.inputs("val"))

    return {
        "make": _timed(lambda cut: inheritance.pruned_teacher(cut), cuts),
        "judge": _timed(lambda cut: judge.divergence(cut, samples), cuts),
        "accuracy": _timed(accuracy, cuts),
    }


def _timed(function: Callable[[Cut], object], cuts: list[Cut]) -> Callable[[], float]:
    turns = cycle(cuts)

    def once() -> float:
        cut = next(turns)
        began = time.perf_counter()
        function(cut)
        return time.perf_counter() - began

    return once


def _shipped(data: Dataset) -> Teacher:
    return load_teacher(TeacherSource(name="fashion-resnet"), data)


def _deep(data: Dataset) -> Teacher:
    stages = [{"depth": 9, "width": width} for width in (16, 32, 64)]
    with seeded_torch(0, "judging"):
        network = resnet.build(
            stem=16, stem_stride=2, stages=stages, input_shape=data.input_shape, num_classes=data.num_classes
        )
    return freeze(network, data)


if __name__ == "__main__":
    main()
