"""Preparation of networks and samples for torch's exporters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from nas_distill.utils.inputs import Example, Inputs, Samples, arguments, parts_of, rows

if TYPE_CHECKING:
    import torch
    from torch import nn

Made = TypeVar("Made")
BATCH, LENGTH = "batch", "length"


def export_samples(inputs: Example) -> Samples:
    """Return two samples, since exporters treat a batch of 1 as a constant: the given ones, or zeros of a shape."""
    import torch

    if isinstance(inputs, torch.Tensor | Inputs):
        return rows(inputs, 2)
    return torch.zeros(2, *(int(size) for size in inputs))


def by_position(model: nn.Module, x: Samples, *, logits: bool = False) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return a wrapped model that takes the tensors of ``x`` by position, and those tensors.

    Its output is a tuple of all tensors that the model returns, or only its logits.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    from nas_distill.utils.layers.taps import logits_of

    names = tuple(parts_of(x))
    named = isinstance(x, Inputs) and x.named

    class ByPosition(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            found = self.model(**dict(zip(names, tensors))) if named else self.model(*tensors)
            if logits:
                return logits_of(found)
            return tuple(leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor))

    wrapper = ByPosition()
    wrapper.training = False
    return wrapper, tuple(parts_of(x).values())


def with_logits(model: nn.Module, x: Samples) -> nn.Module:
    """Return a model that returns only its logits, and takes ``x`` as ``model`` does; ``model`` if it returns them."""
    import torch

    from nas_distill.utils.inputs import call
    from nas_distill.utils.layers.taps import logits_of

    with torch.no_grad():
        if isinstance(call(model, x), torch.Tensor):
            return model

    class ByName(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **named: torch.Tensor) -> torch.Tensor:
            return logits_of(self.model(**named))

    # torch binds samples by the signature, and has no sizes for gathered keywords.
    own = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *parts_of(x))]
    ByName.forward.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    wrapper = ByName() if isinstance(x, Inputs) and x.named else by_position(model, x, logits=True)[0]
    wrapper.training = False
    return wrapper


def dynamic_sizes(x: Samples) -> list[dict[str, dict[int, Any]]]:
    """Return the sizes to try to keep variable, by name of the tensor and axis; the most general first.

    The batch is variable, and so is the common length of sequences of whole numbers (N, T).
    """
    import torch

    parts, batch = parts_of(x), torch.export.Dim(BATCH)
    tries: list[dict[str, dict[int, Any]]] = []
    lengths = {tuple(part.shape[1:]) for part in parts.values()}
    if len(lengths) == 1 and all(part.dim() == 2 and not part.is_floating_point() for part in parts.values()):
        length = torch.export.Dim(LENGTH)
        tries.append({name: {0: batch, 1: length} for name in parts})
    return [*tries, {name: {0: batch} for name in parts}]


def first_that_exports(tries: Sequence[Any], export: Callable[[Any], Made]) -> Made:
    """Return the result of ``export`` for the first of ``tries`` for which it does not fail.

    Raises:
        Exception: the error of the last try.
    """
    for sizes in tries[:-1]:
        try:
            return export(sizes)
        except Exception:
            continue
    return export(tries[-1])


def graph_of(module: nn.Module, inputs: Example) -> Any:
    """Return the ``torch.export`` graph of a network that returns logits, for batches of any size.

    The graph takes samples as the network does, by name or by position.
    """
    import torch

    x = export_samples(inputs)
    plain = with_logits(module, x)
    args, named = arguments(x)

    def export(named_sizes: dict[str, dict[int, Any]]) -> Any:
        # Limits of the length, such as a table of positions, are found by torch only for an unnamed size.
        sizes = {
            name: {axis: size if axis == 0 else torch.export.Dim.AUTO for axis, size in by_axis.items()}
            for name, by_axis in named_sizes.items()
        }
        shapes: Any = sizes if named else tuple(sizes.values())
        if plain is not module and not named:  # the wrapper gathers positional arguments under one name
            shapes = (shapes,)
        return torch.export.export(plain, args, named, dynamic_shapes=shapes)

    return first_that_exports(dynamic_sizes(x), export)
