"""A search from Python objects: a module, tensors and a builder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nas_distill as nd

SPACE = {"width": [4, 8, 12], "depth": [1, 2]}
QUICK: dict[str, Any] = {
    "sampler": "tpe",  # tests rely on what it proposes in so few trials
    "backend": "inline",
    "trials": 3,
    "seeds": 2,
    "score": {"epochs": 1, "batch_size": 32},
    "final": {"epochs": 1, "batch_size": 32, "count": 1},
    "latency": {"calibrate": 0, "repeats": 5},
}


def build(width: int, depth: int, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for _ in range(depth):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * input_shape[1] * input_shape[2], num_classes))


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose class is the position of a bright patch, quickly learnt."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(320) % 4
    x = torch.rand(320, 1, 8, 8, generator=generator)
    for place in range(4):
        row, column = divmod(place, 2)
        x[y == place, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.5
    return x, y


def trained() -> nn.Module:
    x, y = tensors()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build(16, 2, (1, 8, 8), 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="session")
def given() -> dict[str, Any]:
    """Arguments of a search from Python."""
    x, y = tensors()
    return {
        "teacher": trained(),
        "data": nd.Dataset.from_tensors(x, y, val=0.2),
        "builder": build,
        "space": SPACE,
        "budget": {"flops": "50%", "params": "60k"},
    }


@pytest.fixture
def quick() -> dict[str, Any]:
    """Settings of a search that takes a second."""
    return dict(QUICK)


@pytest.fixture(scope="session")
def own_run(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> nd.Run:
    """A finished search of the user's own, which tests must not change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return nd.search(**given, folder=tmp_path_factory.mktemp("own") / "run", **QUICK)
    finally:
        torch.set_num_threads(threads)
