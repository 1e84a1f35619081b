"""Recording of one forward pass: the called layers in order, with their inputs and outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.utils.errors import TrainingError, first_line
from nas_distill.utils.layers.hooks import Hooks, unfused
from nas_distill.utils.layers.taps import logits_of, tensor_of
from nas_distill.utils.modules import eval_mode
from nas_distill.utils.seeds import seeded_torch


@dataclass(eq=False)
class Call:
    """A call of a module: its dotted name, enclosing call (None for the network itself), tensors and order in time."""

    name: str
    module: nn.Module
    parent: Call | None
    started: int
    input: Tensor | None
    ended: int = -1
    output: Tensor | None = None

    def ancestors(self) -> Iterator[Call]:
        """Yield the enclosing calls, from the innermost."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent


@dataclass(eq=False)
class Recording:
    """A forward pass on ``batch`` samples: all calls in the order of their ends, and the network's logits.

    ``last`` has the last call of each module in the same order; taps deliver only these.
    """

    calls: list[Call]
    logits: Tensor
    batch: int
    last: list[Call] = field(init=False)

    def __post_init__(self) -> None:
        self.last = sorted({call.module: call for call in self.calls}.values(), key=lambda call: call.ended)
        ends = (call.ended for call in self.calls if has_own_weights(call.module))
        self._first_weights = min(ends, default=None)

    def depends_on_weights(self, call: Call) -> bool:
        """Return True if a call's output depends on parameters of modules."""
        return self._first_weights is not None and call.ended >= self._first_weights


def has_own_weights(module: nn.Module) -> bool:
    """Return True if a module has its own parameters, not only those of its children."""
    return any(weight is not None for weight in module._parameters.values())


def record(module: nn.Module, x: Tensor) -> Recording:
    """Run ``module`` once on ``x`` (B, ...), in eval mode and without gradients, and return the recorded calls.

    Afterwards the modes of its submodules and torch's global generator are restored, and all hooks are removed.

    Raises:
        TrainingError: the network fails on ``x``, or does not return logits.
    """
    calls: list[Call] = []
    open_calls: list[Call] = []
    clock = itertools.count()

    with inspection(module), Hooks() as hooks:
        for name, part in module.named_modules():

            def opens(part: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                parent = open_calls[-1] if open_calls else None
                open_calls.append(Call(name, part, parent, next(clock), _tensor((args, kwargs))))

            def closes(part: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
                call = open_calls.pop()
                call.ended, call.output = next(clock), _tensor(result)
                calls.append(call)

            hooks.before(part, opens)
            hooks.after(part, closes)
        output = run(module, x)
    return Recording(calls, logits_of(output), len(x))


@contextmanager
def inspection(module: nn.Module) -> Iterator[None]:
    """Run a block with ``module`` in eval mode, unfused, without gradients; then restore modes and random state."""
    with unfused(module), eval_mode(module), torch.no_grad(), seeded_torch(0, "layers"):
        yield


def run(module: nn.Module, x: Tensor) -> Any:
    """Return the output of ``module`` for ``x``.

    Raises:
        TrainingError: the network fails.
    """
    try:
        return module(x)
    except TrainingError:
        raise
    except Exception as error:
        raise TrainingError(
            f"The network ({type(module).__name__}) fails on a batch of shape {tuple(x.shape)} ({first_line(error)})."
        ) from error


def _tensor(value: Any) -> Tensor | None:
    try:
        return tensor_of(value)
    except TrainingError:
        return None
