"""What layers of a teacher are given, on samples that stand for the training split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from nas_distill.common.device import device_of
from nas_distill.common.layers.calls import looking
from nas_distill.common.layers.hooks import Hooks
from nas_distill.data import Dataset
from nas_distill.data.drawing import draw_places

BATCH = 64

Watcher = Callable[[nn.Module, tuple[Any, ...]], None]


def show_inputs(module: nn.Module, data: Dataset, samples: int, watchers: Iterable[tuple[str, Watcher]]) -> None:
    """Run a network, in eval mode, on drawn training samples while watchers see what their layers are given.

    Nothing is left on the network afterwards.

    Args:
        module: the network.
        data: of its training split ``samples`` are drawn, the same for everyone.
        samples: how many.
        watchers: pairs of a layer's dotted name and what is called with the layer and its inputs, before each of its
            forward passes: queries, keys and values of torch's attention, the first argument of any other layer,
            whether they are passed by position or by name.
    """
    device = device_of(module)
    with looking(module), Hooks() as hooks:
        for name, watcher in watchers:

            def hook(layer: nn.Module, args: Any, kwargs: Any, watcher: Watcher = watcher) -> None:
                names = ("query", "key", "value") if isinstance(layer, nn.MultiheadAttention) else ("input",)
                watcher(layer, (*args[: len(names)], *(kwargs[key] for key in names[len(args) :] if key in kwargs)))

            hooks.before(module.get_submodule(name), hook)
        for index in draw_places(len(data.train), samples).split(BATCH):
            module(data.batch("train", index)[0].to(device))
