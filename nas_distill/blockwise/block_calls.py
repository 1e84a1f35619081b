"""Recorded calls of a network's blocks in a forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.blockwise.channels import first_tensor
from nas_distill.utils.errors import SpaceError
from nas_distill.utils.layers.hooks import Hooks


@dataclass(frozen=True)
class BlockCall:
    """One block's call in a forward pass.

    Attributes:
        input: its first argument.
        args: its other positional arguments, such as a mask.
        kwargs: its keyword arguments.
        output: the returned tensor, or the first entry of a returned tuple.
        returned: the complete return value.
    """

    input: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor
    returned: Any


class BlockRecorder:
    """Recorder of the calls of a network's blocks; a context manager, which leaves no hooks on the network."""

    def __init__(self, module: nn.Module, blocks: Sequence[str]) -> None:
        self._module = module
        self._blocks = tuple(blocks)
        self._arguments: dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}
        self._returned: dict[str, Any] = {}
        self._output: dict[str, Tensor] = {}
        self._hooks = Hooks(module)

    @torch.no_grad()
    def run(self, x: Tensor) -> tuple[Tensor, list[BlockCall]]:
        """Return the logits of a batch and the call of each block, in the order of the blocks.

        Raises:
            SpaceError: a block was not called, or not with a tensor as its first argument.
        """
        self._arguments.clear()
        logits: Tensor = self._module(x)
        return logits, [self._call(name) for name in self._blocks]

    def __enter__(self) -> BlockRecorder:
        self._hooks.__enter__()
        for name in self._blocks:
            block = self._module.get_submodule(name)
            self._hooks.before(block, self._before(name))
            self._hooks.after(block, self._after(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            if not args or not isinstance(args[0], Tensor):
                raise SpaceError(
                    f"block '{name}' is not called with a tensor as its first argument, which blockwise distillation "
                    "needs; name other blocks, as in space: {from_teacher: {blocks: [...]}}."
                )
            # Copied, since later operations may overwrite it in place (a ReLU, a dropout, `x += y`).
            self._arguments[name] = (args[0].clone(), *args[1:]), named

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
            self._output[name] = first_tensor(output, name).clone()
            self._returned[name] = output

        return hook

    def _call(self, name: str) -> BlockCall:
        if name not in self._arguments:
            raise SpaceError(
                f"block '{name}' was not called in the forward pass, so it cannot be distilled; name other blocks."
            )
        (input, *args), kwargs = self._arguments[name]
        return BlockCall(input, tuple(args), kwargs, self._output[name], self._returned[name])
