"""Statistics on training samples: observed inputs of layers, and recalibrated batch norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.utils.layers.calls import inspection
from nas_distill.utils.layers.hooks import Hooks
from nas_distill.utils.layers.transposed import is_transposed_linear
from nas_distill.utils.modules import device_of, eval_mode

BATCH = 64
RECALIBRATION_BATCH = 128

InputObserver = Callable[[nn.Module, tuple[Any, ...]], None]


def observe_inputs(
    module: nn.Module, data: Dataset, samples: int, observers: Iterable[tuple[str, InputObserver]]
) -> None:
    """Run a network, in eval mode, on drawn training samples, and pass the inputs of layers to observers.

    The network is not changed.

    Args:
        module: the network.
        data: the data set; only its training split is used.
        samples: number of samples drawn, the same ones in every call.
        observers: pairs of a layer's dotted name and a function that is called with the layer and its inputs before
            each of its forward passes. Inputs are queries, keys and values of torch's attention, and the first argument
            of any other layer, whether passed by position or by name.
    """
    device = device_of(module)
    with inspection(module), Hooks() as hooks:
        for name, observer in observers:

            def hook(layer: nn.Module, args: Any, kwargs: Any, observer: InputObserver = observer) -> None:
                names = input_names(layer)
                observer(layer, (*args[: len(names)], *(kwargs[key] for key in names[len(args) :] if key in kwargs)))

            hooks.before(module.get_submodule(name), hook)
        for index in random_indices(len(data.train), samples).split(BATCH):
            module(data.batch("train", index)[0].to(device))


def input_names(layer: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments of a layer that its weights read."""
    if isinstance(layer, nn.MultiheadAttention):
        return ("query", "key", "value")
    return ("x",) if is_transposed_linear(layer) else ("input",)


def recalibrate_batch_norm(module: nn.Module, data: Dataset, samples: int = 2048) -> None:
    """Estimate running means and variances again, in place, from ``samples`` training samples; weights do not change.

    Removed channels change the inputs of every later layer, so the teacher's statistics no longer fit: without
    recalibration, a cut network answers at random before it is trained (Yu and Huang, 2019, arXiv:1903.05134). The
    average is cumulative, over full batches of samples drawn with a constant seed, so the result depends only on module
    and data, and a training split may be sorted by class. A network without batch norm is not changed. Each module
    returns to its mode (training or eval).
    """
    if not any(norm.track_running_stats for norm in batch_norms([module])):
        return
    device = device_of(module)
    batch = min(RECALIBRATION_BATCH, len(data.train))
    count = max(batch, min(samples, len(data.train)) // batch * batch)
    with eval_mode(module), recalibrating([module]), torch.no_grad():
        for index in random_indices(len(data.train), count).split(batch):
            module(data.batch("train", index)[0].to(device))


@contextmanager
def recalibrating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Estimate running means and variances again from the forward passes in the ``with`` block, then set eval mode.

    All batches have equal weight.
    """
    modules = list(modules)
    norms = [norm for norm in batch_norms(modules) if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for module in modules:
        module.eval()  # so that dropout does not disturb the statistics
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.eval()


def batch_norms(modules: Iterable[nn.Module]) -> list[_BatchNorm]:
    """Return the batch norms in ``modules``."""
    return [part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)]
