"""Finding the layers of a network that a distillation may use."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nas_distill.common.errors import TrainingError
from nas_distill.common.layers.blocks import find_tokens
from nas_distill.common.layers.calls import looking, record, run
from nas_distill.common.layers.head import find_vector
from nas_distill.common.layers.layer import Layer, kind_of
from nas_distill.common.layers.stages import find_maps
from nas_distill.common.layers.taps import Tap


def find_layers(module: nn.Module, x: Tensor) -> list[Layer]:
    """Return the layers of ``module`` that a distillation may use, shallow first; never the logits.

    - Feature maps: for each spatial resolution the last and outermost layer with it.
    - Tokens: the output of each block of a transformer.
    - The vector that the classifier takes; where no module puts it out (but ``flatten`` or ``mean``), it is called the
      classifier's input, ``head:input``.

    The network runs once on ``x``, in eval mode and without gradients, and is as before afterwards. Layers that no
    weights have a part in, such as the flattened image, are left out. The list is empty for a network that has none.

    Args:
        module: the network.
        x: (B, ...) samples. B should not be the number of a transformer's tokens, or the two may be mixed up.

    Raises:
        TrainingError: the network fails on ``x``, or returns no logits.
    """
    recording = record(module, x)
    maps, tokens = find_maps(recording), find_tokens(recording)
    if tokens and len(maps) == 1:
        maps = []  # the patch embedding: a linear map of pixels
    found = sorted([*maps, *tokens, *find_vector(recording)], key=lambda item: item[0])
    return [layer for _, layer in found]


def layers_named(module: nn.Module, x: Tensor, names: Sequence[str]) -> list[Layer]:
    """Return the layers of ``module`` that a user named, in that order, with the shapes they have for ``x``.

    Args:
        module: the network; it is as before afterwards.
        x: (B, ...) samples.
        names: as ``Tap`` takes them.

    Raises:
        TrainingError: there is no such layer, it is not called, or it is neither a map, tokens nor a vector.
    """
    tap = Tap(module, names)
    with looking(module), tap:
        run(module, x)
    return [_layer(name, tap.features[name], len(x)) for name in names]


def _layer(name: str, feature: Tensor, batch: int) -> Layer:
    shape = tuple(feature.shape[1:])
    kind = kind_of(shape)
    if kind is None or len(feature) != batch or name.endswith((":attention", ":qkv")):
        raise TrainingError(
            f"Layer '{name}' gives {tuple(feature.shape)} for a batch of {batch}; features are compared for maps "
            "(B, C, H, W), tokens (B, N, D) and vectors (B, D)."
        )
    return Layer(name, shape, kind)
