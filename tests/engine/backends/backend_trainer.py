"""An evaluator that trains a tiny network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nas_distill.engine.work import RungResult, Work
from nas_distill.utils.seeds import seeded_torch


@dataclass
class Trainer:
    """A tiny real training; ``careless`` draws from the global generators that what ran before has used."""

    x: np.ndarray
    y: np.ndarray
    careless: bool = False

    def start(self, work: Work) -> TrainerRun:
        return TrainerRun(self, work)


class TrainerRun:
    def __init__(self, evaluator: Trainer, work: Work) -> None:
        self.evaluator, self.work, self.rung = evaluator, work, 0
        self.x = torch.tensor(evaluator.x)
        self.y = torch.tensor(evaluator.y)
        with seeded_torch(work.seed, "init"):
            self.model = self.build(int(work.architecture.values["at"]))
        if evaluator.careless:
            self.model = self.build(int(work.architecture.values["at"]))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def build(self, width: int) -> Any:
        return nn.Sequential(nn.Linear(self.x.shape[1], width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3))

    def next_rung(self) -> RungResult:
        if self.evaluator.careless:
            noise = float(np.random.rand())
        else:
            noise = 0.0
        with seeded_torch(self.work.seed, "steps", self.rung):
            for _ in range(20):
                self.optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(self.model(self.x), self.y)
                loss.backward()
                self.optimizer.step()
        self.rung += 1
        weights = sum(parameter.double().abs().sum().item() for parameter in self.model.parameters())
        figures = {"weights": weights, "noise": noise, "threads": float(torch.get_num_threads())}
        return RungResult(self.rung - 1, 20 * self.rung, -loss.item(), 0.0, figures)

    def close(self) -> None:
        del self.model
