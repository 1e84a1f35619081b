"""Parts of a row in the tables of benchmarks/losses.py: figures over seeds, verdicts, networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from losses_cases import ASSISTANT, INVERTED, NARROW, space_of
from losses_train import Trainings

from nas_distill.costs.counting import count
from nas_distill.spaces import NetworkBuilder
from nas_distill.tasks.classification import ClassificationEvaluation

BETTER, WORSE, TIE, FAILED = "better", "worse", "tie", "failed"
SHOWN = {NARROW: "narrower resnet", INVERTED: "mbconv", ASSISTANT: "assistant"}


@dataclass(frozen=True)
class Row:
    """One way of teaching: validation accuracy and test figures, by seed; ``cause`` of its first failure."""

    name: str
    validation: dict[int, float]
    tests: dict[int, ClassificationEvaluation]
    cause: str | None

    @classmethod
    def of(cls, name: str, trainings: Trainings) -> Row:
        validation, tests, cause = {}, {}, None
        for place in range(trainings.seeds):
            key = f"{name}-seed{place}"
            if trainings.finished(key):
                validation[place] = trainings.book[key]["quality"]
                tests[place] = trainings.tested(key)
            else:
                cause = cause or trainings.book[key].get("cause") or "Its logits became NaN or infinite."
        return cls(name, validation, tests, cause)

    def mean(self, figure: str) -> float:
        return fmean(float(getattr(test, figure)) for test in self.tests.values())

    def gain(self, base: Row) -> tuple[float, float]:
        """Return test accuracy less the base's, mean over the seeds that both have, and two standard errors of it."""
        both = sorted(set(self.tests) & set(base.tests))
        differences = [self.tests[place].accuracy - base.tests[place].accuracy for place in both]
        if len(differences) < 2:
            return math.nan, math.nan
        return fmean(differences), 2 * stdev(differences) / math.sqrt(len(differences))

    def verdict(self, base: Row) -> str:
        gain, noise = self.gain(base)
        if self.cause is not None or math.isnan(gain):
            return FAILED
        if abs(gain) <= noise:
            return TIE
        return BETTER if gain > 0 else WORSE


def flops(name: str, trainings: Trainings) -> float:
    """Return a network's cost in millions."""
    data, space = trainings.data, space_of(name)
    module = NetworkBuilder.of(space, data).build(space.smallest())
    return count(module, data.input_shape, ["flops"])["flops"] / 1e6
