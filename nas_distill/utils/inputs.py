"""Inputs of networks: one tensor, or several tensors that are passed by name or by position."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Inputs(Generic[Part]):
    """Several tensors, or arrays, with one row per sample.

    It has the operations of a batch that rooms use: length, indexing, splitting and moves between devices.

    Attributes:
        parts: the tensors by name; those of a tuple are called ``input_0``, ``input_1``, and so on.
        named: True passes them to a network as keywords, False by position.
    """

    parts: Mapping[str, Part]
    named: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Part] | Sequence[Part]) -> Inputs[Part]:
        """Return the inputs in a mapping, or in a tuple or list."""
        if isinstance(given, Mapping):
            return cls({str(name): part for name, part in given.items()})
        return cls({f"input_{index}": part for index, part in enumerate(given)}, named=False)

    def map(self, function: Callable[[Any], Any]) -> Inputs[Any]:
        """Return the inputs with ``function`` applied to each part."""
        return Inputs({name: function(part) for name, part in self.parts.items()}, self.named)

    def __len__(self) -> int:
        first: Any = next(iter(self.parts.values()))
        return len(first)

    def __getitem__(self, index: Any) -> Inputs[Part]:
        return self.map(lambda part: part[index])

    def __iter__(self) -> Iterator[Inputs[Part]]:
        return (self[index] for index in range(len(self)))

    def to(self, device: torch.device | str, **options: Any) -> Inputs[Part]:
        """Return the inputs on ``device``; a memory layout among the options is left out, since it is for images."""
        options.pop("memory_format", None)
        return self.map(lambda part: part.to(device, **options))

    def split(self, size: int) -> list[Inputs[Part]]:
        """Return the inputs in batches of ``size``."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def clone(self) -> Inputs[Part]:
        """Return a copy."""
        return self.map(lambda part: part.clone())

    @property
    def device(self) -> torch.device:
        """Device of the first tensor."""
        first: Any = next(iter(self.parts.values()))
        found: torch.device = first.device
        return found

    @property
    def shape(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts by name, with the batch."""
        return {name: tuple(part.shape) for name, part in self.parts.items()}  # type: ignore[attr-defined]

    def dim(self) -> int:
        """Return 0: several tensors have no common rank."""
        return 0


Samples: TypeAlias = "Tensor | Inputs[Tensor]"
"""A batch of samples: one tensor, or several."""
Example: TypeAlias = "Sequence[int] | Tensor | Inputs[Tensor]"
"""The shape of one sample, for which noise serves as an example; or a few real samples."""


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments that pass samples to a network."""
    if not isinstance(x, Inputs):
        return (x,), {}
    return ((), dict(x.parts)) if x.named else (tuple(x.parts.values()), {})


def call(module: nn.Module, x: Samples) -> Any:
    """Return the output of a network for samples."""
    args, named = arguments(x)
    return module(*args, **named)


def join(parts: Sequence[Samples]) -> Samples:
    """Return batches as one."""
    import torch

    first = parts[0]
    if not isinstance(first, Inputs):
        return torch.cat([part for part in parts if not isinstance(part, Inputs)])
    tensors = {name: [part.parts[name] for part in parts if isinstance(part, Inputs)] for name in first.parts}
    return Inputs({name: torch.cat(values) for name, values in tensors.items()}, first.named)


def rows(x: Samples, count: int) -> Samples:
    """Return ``count`` samples: the first ones, repeated if there are fewer."""
    import torch

    index = torch.tensor(list(itertools.islice(itertools.cycle(range(len(x))), count)))
    return x[index]


def in_precision(x: Samples, dtype: torch.dtype) -> Samples:
    """Return samples with floating-point values as ``dtype``; whole numbers and masks stay as they are."""
    if isinstance(x, Inputs):
        return x.map(lambda part: in_precision(part, dtype))
    return x.to(dtype) if x.is_floating_point() else x


def parts_of(x: Any, name: str = "input") -> dict[str, Any]:
    """Return the tensors, or arrays, of samples by name; a single one is called ``name``."""
    return dict(x.parts) if isinstance(x, Inputs) else {name: x}


def as_arrays(x: Samples) -> Any:
    """Return samples as a NumPy array, or as arrays by name."""
    if isinstance(x, Inputs):
        return {name: as_arrays(part) for name, part in x.parts.items()}
    return x.detach().cpu().contiguous().numpy()


def input_types(x: Example) -> list[dict[str, Any]] | None:
    """Return name, shape without the batch, and type of each tensor as JSON values; None for a shape."""
    if isinstance(x, Sequence):
        return None
    found = parts_of(x).items()
    return [
        {"name": name, "shape": list(part.shape[1:]), "dtype": str(part.dtype).removeprefix("torch.")}
        for name, part in found
    ]


def describe(x: Samples) -> str:
    """Return the shapes of a batch in words."""
    if not isinstance(x, Inputs):
        return f"shape {tuple(x.shape)}"
    return ", ".join(f"{name} {shape}" for name, shape in x.shape.items())
