"""What stands where a block was."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Skip(nn.Module):
    """Passes on its first argument; further ones, a mask say, are of no use to it.

    ``wrapped``: returns it as the only entry of a tuple, as the block did.
    """

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return ``x``."""
        return (x,) if self.wrapped else x
