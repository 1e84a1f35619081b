"""Modules looked at and left as they were: their mode, their buffers, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

Place = tuple[dict[str, Tensor | None], str]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a block with ``module`` in eval mode; each part's own flag is given back, a frozen one stays frozen."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False  # not .eval(): a module may override train() to do more than set the flag
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def buffer_places(module: nn.Module) -> list[Place]:
    """Return where a module's buffers are held, a shared one once."""
    found: dict[int, Place] = {}
    for part in module.modules():
        for name, held in part._buffers.items():
            if held is not None:
                found.setdefault(id(held), (part._buffers, name))
    return list(found.values())


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Run a block after which the buffers of ``module`` are as before, whatever a forward pass in it writes to them.

    Copies stand in for them meanwhile, so that what a backward pass saved of the originals is not touched.
    """
    places = [(part._buffers, name) for part in module.modules() for name in part._buffers]
    held = [held[name] for held, name in places]
    copies = {id(value): value.clone() for value in held if value is not None}
    for (buffers, name), value in zip(places, held):
        if value is not None:
            buffers[name] = copies[id(value)]
    try:
        yield
    finally:
        for (buffers, name), value in zip(places, held):
            buffers[name] = value
