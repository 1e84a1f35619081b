"""Named random seeds, and the device and memory format in which a network trains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2**63) for the choice called ``names`` under ``seed``."""
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator for the choice called ``names``."""
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU torch generator for the choice called ``names``."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def seeded_torch(seed: int, *names: str | int) -> Iterator[None]:
    """Run a block under torch's global generator seeded by name, and give the caller's state back after it.

    Modules draw their initial weights, and dropout its masks, from the global generator alone, so this is the one
    place where it is touched.
    """
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive(seed, *names))
        yield
