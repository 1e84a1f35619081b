"""Small teachers of many architectures, and a library of one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_distill.blockwise.alternatives import Alternatives, find_alternatives
from nas_distill.blockwise.library import Library, build_library
from nas_distill.blockwise.training import LocalTraining
from nas_distill.config import BlockwiseConfig, FromTeacherConfig
from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.models import mbconv, resnet
from nas_distill.pruning.build import CutBuilder
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import WeightInheritance, make_inheritance
from nas_distill.pruning.plan import Plan
from nas_distill.pruning.replacements import REPLACEMENTS, fits
from nas_distill.pruning.space import CutSpace
from nas_distill.pruning.statistics import recalibrate_batch_norm
from nas_distill.spaces import SearchSpace
from nas_distill.teacher import freeze
from nas_distill.utils.seeds import seeded_torch

SHAPE = (1, 8, 8)
SETTINGS = BlockwiseConfig(trunk=(0.5, 1.0), widths=(0.25, 1.0), epochs=2, batch_size=32, heldout=32)


@dataclass(frozen=True)
class Case:
    """A teacher, its pruning plan, and the space of its cuts."""

    module: nn.Module
    plan: Plan
    cuts: CutSpace
    space: SearchSpace
    inheritance: WeightInheritance

    def alternatives(self, settings: BlockwiseConfig = SETTINGS) -> Alternatives:
        return find_alternatives(self.cuts, shared=settings.trunk, inner=settings.widths)


class Layered(nn.Module):
    """Torch's own encoder layers on eight tokens; the batch is the second dimension if ``turned``."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 10)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 4, 24, 0.1, batch_first=not turned) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1, 2))
        x = x.transpose(0, 1) if self.turned else x
        for layer in self.layers:
            x = layer(x, None)
        return self.head(x.mean(0 if self.turned else 1))


class Plain(nn.Module):
    """Stem, blocks, mean over pixels, classifier."""

    def __init__(self, blocks: list[nn.Module], width: int) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Sequential(*blocks), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Dense(nn.Module):
    """Appends its channels to its input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def _grouped_norms() -> nn.Module:
    """Units of two channels each, joined by a group norm."""
    return Plain(
        [
            nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.Sequential(nn.GroupNorm(6, 12), nn.ReLU())),
            nn.Sequential(nn.Conv2d(12, 8, 3, 2, 1), nn.Sequential(nn.GroupNorm(4, 8), nn.ReLU())),
        ],
        8,
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: resnet.build(
        stem=8, stages=[{"depth": 2, "width": 8}, {"depth": 1, "width": 16}], input_shape=SHAPE
    ),
    "mobile": lambda: mbconv.build(
        stem=8, stages=[{"depth": 1, "width": 8}, {"depth": 2, "width": 16, "se": True}], head=32, input_shape=SHAPE
    ),
    "transformer": lambda: Layered(turned=False),
    "turned": lambda: Layered(turned=True),
    "grouped norms": _grouped_norms,
    "concatenating": lambda: Plain([Dense(8), Dense(16), nn.Sequential(nn.Conv2d(24, 8, 3, 2, 1), nn.ReLU())], 8),
}


@pytest.fixture(scope="session")
def data() -> Dataset:
    whole = load_dataset("digits")
    return Dataset.from_tensors(
        whole.train.x[:160],
        whole.train.y[:160],
        val=(whole.val.x[:40], whole.val.y[:40]),
        num_classes=10,
        views=Views(count=2, pad=1),
    )


@pytest.fixture(scope="session")
def make_case(data: Dataset) -> Callable[..., Case]:
    """Return a function that makes the case of a named network; ``numbered``: with a depth order."""

    def make(
        name: str, *, multiple: int = 4, widths: tuple[float, ...] = (0.25, 0.5, 1.0), numbered: bool = False
    ) -> Case:
        with seeded_torch(0, "test"):
            module = NETWORKS[name]()
        recalibrate_batch_norm(module, data)  # as in a trained network
        teacher = freeze(module, data)
        plan = find_plan(module, data.input_shape)
        order = [index for index, block in enumerate(plan.blocks) if block.droppable][::-1]
        cuts = CutSpace.from_plan(
            plan,
            widths=widths,
            multiple=multiple,
            depth=order if numbered else "each",
            replacements=[kind for kind in REPLACEMENTS if any(fits(kind, block) for block in plan.blocks)],
        )
        space = cuts.search_space(CutBuilder(module, plan))
        inheritance = make_inheritance(teacher, cuts, data, FromTeacherConfig(samples=64))
        return Case(module, plan, cuts, space, inheritance)

    return make


@pytest.fixture(scope="session")
def residual(make_case: Callable[..., Case]) -> Case:
    return make_case("residual")


@pytest.fixture
def make_training(residual: Case, data: Dataset) -> Callable[..., LocalTraining]:
    """Return a function that makes the training of the residual teacher's blocks; keywords override settings."""

    def make(alternatives: Alternatives | None = None, *, seed: int = 0, **changes: object) -> LocalTraining:
        settings = SETTINGS.model_copy(update=changes)
        return LocalTraining(
            alternatives or residual.alternatives(settings),
            residual.inheritance,
            data,
            settings,
            seed=seed,
            identity="it",
        )

    return make


@pytest.fixture(scope="session")
def library(residual: Case, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A finished library of the residual teacher; tests must not change it."""
    folder: Path = tmp_path_factory.mktemp("blocks") / "library"
    return build_library(residual.inheritance, data, settings=SETTINGS, seed=0, folder=folder)
