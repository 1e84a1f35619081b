"""Inputs and outputs of a network's blocks during one forward pass."""

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
class Passage:
    """One block's part of a forward pass.

    Attributes:
        given: its first argument.
        rest: its other positional arguments, a mask say.
        named: its keyword arguments.
        made: the tensor that it returned.
        output: all that it returned.
    """

    given: Tensor
    rest: tuple[Any, ...]
    named: Mapping[str, Any]
    made: Tensor
    output: Any


class Watch:
    """Runs a network and tells of its blocks; open it as a context. Nothing is left on the network afterwards."""

    def __init__(self, module: nn.Module, blocks: Sequence[str]) -> None:
        self._module = module
        self._blocks = tuple(blocks)
        self._given: dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}
        self._output: dict[str, Any] = {}
        self._made: dict[str, Tensor] = {}
        self._hooks = Hooks(module)

    @torch.no_grad()
    def run(self, x: Tensor) -> tuple[Tensor, list[Passage]]:
        """Return the logits of a batch and each block's passage, in the order of the blocks.

        Raises:
            SpaceError: a block was not called, or not with a tensor as its first argument.
        """
        self._given.clear()
        logits: Tensor = self._module(x)
        return logits, [self._passage(name) for name in self._blocks]

    def __enter__(self) -> Watch:
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
            # Copied, since what follows may overwrite it in place (a ReLU, a dropout, `x += y`).
            self._given[name] = (args[0].clone(), *args[1:]), named

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
            self._made[name] = first_tensor(output, name).clone()
            self._output[name] = output

        return hook

    def _passage(self, name: str) -> Passage:
        if name not in self._given:
            raise SpaceError(f"block '{name}' was not called in the forward pass, so it cannot be distilled.")
        (given, *rest), named = self._given[name]
        return Passage(given, tuple(rest), named, self._made[name], self._output[name])
