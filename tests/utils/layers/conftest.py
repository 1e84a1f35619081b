"""Networks of many forms, as users write them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Plain(nn.Module):
    """A Sequential of layers, a functional pooling and flatten, a dropout before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*conv(1, 4), nn.MaxPool2d(2), *conv(4, 8), nn.MaxPool2d(2), *conv(8, 8))
        self.classifier = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


class InDict(nn.Module):
    """A network that returns a mapping in which the logits are not first, and pools in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 4), conv(4, 6, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body(x)
        return {"maps": maps, "logits": self.fc(self.flatten(self.pool(maps)))}


class Shared(nn.Module):
    """A network that uses one activation everywhere, and calls one block, which has two names, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.block
        self.down = nn.Conv2d(4, 6, 3, 2, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.again(self.relu(self.block(x))))
        x = self.relu(self.down(x))
        return self.fc(x.mean((2, 3)))


class Encoder(nn.Module):
    """Torch's transformer as a classifier of 16 patches."""

    def __init__(
        self, *, batch_first: bool = True, layers: int = 3, norm_first: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Conv2d(1, 8, 2, 2)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first, dropout=dropout)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=batch_first and not norm_first)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, padding: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.encoder(x, mask=mask, src_key_padding_mask=padding)
        return self.head(x.mean(1 if self.batch_first else 0))


class Block(nn.Module):
    """A transformer block like CLIP's: (N, B, D), returned in a tuple."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = x + self.attention(x, x, x)[0]
        return x + self.mlp(x), None


@dataclass
class Answer:
    loss: None
    logits: Tensor


class OwnBlocks(nn.Module):
    """Blocks in a ModuleList, a class token, a dataclass returned."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.embed = nn.Conv2d(1, 8, 2, 2)
        self.blocks = nn.ModuleList(Block(8) for _ in range(layers))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Answer:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1).transpose(0, 1)
        for block in self.blocks:
            x = block(x)[0]
        return Answer(None, self.head(self.norm(x.transpose(0, 1))[:, 0]))


@pytest.fixture
def image() -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plain() -> Plain:
    return seeded(Plain)


def seeded(make, **arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(**arguments)


@pytest.fixture
def networks():
    """A function that builds networks by name, with seeded random weights."""
    kinds = {"plain": Plain, "dict": InDict, "shared": Shared, "encoder": Encoder, "own_blocks": OwnBlocks}

    def make(name: str, **arguments):
        return seeded(kinds[name], **arguments)

    return make
