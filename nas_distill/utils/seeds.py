"""Random seeds and generators that are derived from one seed by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2**63) for the random stream called ``names`` under ``seed``."""
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator for the random stream called ``names``."""
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU torch generator for the random stream called ``names``."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def seeded_torch(seed: int, *names: str | int) -> Iterator[None]:
    """Run a block with torch's global generator seeded by name, then restore its state.

    Initial weights of modules and masks of dropout come only from the global generator. This function is the only
    place that seeds it.
    """
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive(seed, *names))
        yield
