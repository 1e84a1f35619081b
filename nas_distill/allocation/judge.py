"""The judge of cuts: divergence from the teacher's answers before any training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_distill.data.splits import random_indices
from nas_distill.pruning.importance import Order
from nas_distill.pruning.inheritance import WeightInheritance, pruned_teacher
from nas_distill.pruning.plan import Cut, Plan
from nas_distill.pruning.reconstruction import Moments
from nas_distill.pruning.statistics import batch_norms
from nas_distill.tasks import find_task
from nas_distill.teacher import TeacherSignal
from nas_distill.utils.seeds import seeded_torch

BATCH = 256
_VIEW = 0


@dataclass(frozen=True)
class CutJudge:
    """Measures KL(teacher || student) of untrained cuts on a fixed sample of training data; picklable.

    The sample is of the training data: hundreds of looks at a small validation set overfit it. Divergence rather than
    accuracy: it has no ties, and needs no labels.

    Attributes:
        module: the teacher, with its shortcuts rewritten by the plan.
        plan: its pruning plan.
        orders: the units of each group, the most important first.
        moments: input moments of the layers to reconstruct, by name.
        task: name of the task.
        inputs: (N, ...), the sample.
        answers: (N, K), the teacher's answers to it.
    """

    module: nn.Module
    plan: Plan
    orders: Mapping[str, Order]
    moments: Mapping[str, Moments]
    task: str
    inputs: Tensor
    answers: Tensor

    @classmethod
    def make(cls, inheritance: WeightInheritance, signal: TeacherSignal, samples: int, *, seed: int = 0) -> CutJudge:
        """Draw up to ``samples`` training samples, and read the teacher's answers to them."""
        data = inheritance.data
        index = random_indices(len(data.train), samples, seed, "judge")
        inputs = data.batch("train", index, _VIEW)[0]
        parts = zip(index.split(BATCH), inputs.split(BATCH))
        answers = torch.cat([signal.answer("train", part, _VIEW, x).logits for part, x in parts])
        one = inheritance
        return cls(one.module, one.plan, one.orders, one.moments, data.task, inputs, answers.cpu())

    def divergence(self, cut: Cut, samples: int) -> float:
        """Return the mean divergence of a cut over the first ``samples`` samples, in nats; lower is better.

        Batch norms use the statistics of each batch, which estimates them again on the same pass. The divergence is
        infinite where outputs are not finite.
        """
        task = find_task(self.task)
        variance = self.answers.var(0).clamp_min(1e-12)
        total, count = 0.0, 0
        with seeded_torch(0, "judge"), torch.inference_mode():
            network = pruned_teacher(self.module, self.plan, cut, self.orders, self.moments).eval()
            for norm in batch_norms([network]):
                norm.train()
            for inputs, wanted in zip(self.inputs[:samples].split(BATCH), self.answers[:samples].split(BATCH)):
                total += float(task.divergence(network(inputs), wanted, variance).sum())
                count += len(inputs)
        return total / count if math.isfinite(total) else math.inf
