"""A network's buffers, such as a batch norm's running statistics: where they are, and a look that leaves them alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

Place = tuple[dict[str, Tensor | None], str]


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
