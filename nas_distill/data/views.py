"""Seeded augmentation: a fixed set of views of each training sample, applied to batches.

View ``v`` of sample ``i`` depends only on (seed, v, i) and the number of samples, not on the batch or the order of
calls. So a teacher's stored answer to a view is valid for every training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.utils.checkpoints import text_digest
from nas_distill.utils.errors import DataError, first_line
from nas_distill.utils.references import is_reference, load_reference
from nas_distill.utils.seeds import torch_generator

ViewFunction = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Views:
    """A set of ``count`` views, each a shift by up to ``pad`` positions, padded with zeros, and a mirror with ``flip``.

    An int ``pad`` applies to every axis but the channels (axis 0 of a sample with several axes): to both axes of an
    image (C, H, W), to the one of a series (C, L) or (L,). A tuple applies to the last axes, one number per axis:
    ``(3, 0)`` shifts a spectrogram (C, F, T) or (F, T) only in frequency. ``flip`` mirrors half of the images along
    their last axis.

    ``function`` is called after shift and mirror with one sample and a ``torch.Generator``, from which it takes all its
    random numbers; it returns a changed sample of the same shape and dtype. A name ``package.module:function`` is also
    searched in the folders ``paths``.

    Without ``pad``, ``flip`` and ``function`` the only view is the sample itself, and ``count`` becomes 1.

    Raises:
        DataError: ``count`` is below 1, ``pad`` is below 0, or ``function`` is neither a function nor the name of one.
    """

    count: int = 1
    pad: int | tuple[int, ...] = 0
    flip: bool = False
    seed: int = 0
    function: str | ViewFunction | None = None
    paths: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.pad, list):
            object.__setattr__(self, "pad", tuple(self.pad))
        if self.count < 1:
            raise DataError(f"Views: 'count' is {self.count}; there must be at least one view.")
        if min(self._pads, default=0) < 0:
            raise DataError(f"Views: 'pad' is {self.pad}; it must be 0 or more pixels.")
        if isinstance(self.function, str) and not is_reference(self.function):
            raise DataError(
                f"Views: 'function' is '{self.function}', which is not of the form package.module:function."
            )
        if not isinstance(self.function, str | None) and not callable(self.function):
            raise DataError(f"Views: 'function' is a {type(self.function).__name__}; give a function, or its name.")
        if self.identity:
            # Further identical views would only repeat the teacher's work.
            object.__setattr__(self, "count", 1)

    @property
    def identity(self) -> bool:
        """True if a view is the sample itself."""
        return not any(self._pads) and not self.flip and self.function is None

    def recipe(self) -> dict[str, Any]:
        """Return the definition of the views as JSON values, for fingerprints; of a function its name and code."""
        pad = list(self.pad) if isinstance(self.pad, tuple) else self.pad
        recipe: dict[str, Any] = {"count": self.count, "pad": pad, "flip": self.flip, "seed": self.seed}
        if self.function is None:
            return recipe
        return {**recipe, "function": self._name, "code": self._code}

    def text(self) -> str:
        """Return a short description of the views."""
        parts = []
        if any(self._pads):
            by_axis = f" along the last {len(self._pads)} axes" if isinstance(self.pad, tuple) else " pixels"
            parts.append(f"shifts of up to {', '.join(map(str, self._pads))}{by_axis}")
        if self.flip:
            parts.append("mirrored")
        if self.function is not None:
            parts.append(f"changed by {self._name}")
        return f"{self.count} seeded views: {', '.join(parts)}" if parts else "the samples as they are"

    def check(self, x: Tensor, where: str) -> None:
        """Check that the views can be applied to samples of this shape.

        Args:
            x: one sample, as stored in a Dataset.
            where: start of messages.

        Raises:
            DataError: they cannot; or the function fails, changes shape or dtype, or is not reproducible.
        """
        shape = tuple(x.shape)
        axes = self._axes(len(shape))
        if axes < len(self._pads) or (any(self._pads) and axes == 0):
            raise DataError(f"{where}: views shift {len(self._pads)} axes, but a sample has shape {shape}.")
        if self.flip and len(shape) != 3:
            raise DataError(f"{where}: views with flip need images (C, H, W), but a sample has shape {shape}.")
        for pad, size in zip(self._pads_of(len(shape)), shape[len(shape) - axes :]):
            if pad >= size:
                raise DataError(
                    f"{where}: views shift by up to {pad}, which moves all values out of samples of shape {shape}; "
                    "lower 'pad'."
                )
        if self.function is None:
            return
        first, second = (self._transformed(x[None], torch.zeros(1, dtype=torch.int64), 0, where) for _ in range(2))
        if first.is_floating_point() and not bool(torch.isfinite(first).all()):
            raise DataError(f"{where}: the view function {self._name} returns NaN or infinity.")
        if not torch.equal(first, second):
            raise DataError(
                f"{where}: the view function {self._name} gives different results for the same sample and generator; "
                "take all random numbers from the generator that it is given."
            )

    def apply(self, x: Tensor, index: Tensor, view: int, samples: int) -> Tensor:
        """Return view ``view`` of a batch.

        Args:
            x: (B, ...), any dtype.
            index: (B,) int64 indices of the samples in the training set.
            view: number of the view, from 0; it may exceed ``count``, the number of views in use.
            samples: size of the training set.

        Raises:
            DataError: the function fails, or changes shape or dtype.
        """
        if self.identity:
            return x
        if any(self._pads) or self.flip:
            x = self._shifted(x, index, view, samples)
        return x if self.function is None else self._transformed(x, index, view, "Views")

    @property
    def _pads(self) -> tuple[int, ...]:
        return self.pad if isinstance(self.pad, tuple) else (self.pad,)

    def _axes(self, dimensions: int) -> int:
        """Return the number of a sample's last axes that are shifted."""
        return (
            len(self._pads) if isinstance(self.pad, tuple) and len(self.pad) <= dimensions else max(dimensions - 1, 1)
        )

    def _pads_of(self, dimensions: int) -> tuple[int, ...]:
        return self.pad if isinstance(self.pad, tuple) else (self.pad,) * self._axes(dimensions)

    def _shifted(self, x: Tensor, index: Tensor, view: int, samples: int) -> Tensor:
        pads = self._pads_of(x.dim() - 1)
        shifts, mirrored = _random_shifts(self.seed, pads, view, samples)
        batch, sizes = len(x), x.shape[x.dim() - len(pads) :]
        # One gather from the flattened padded batch moves each value once.
        padded = functional.pad(x, [pad for pad in reversed(pads) for _ in range(2)])
        positions = torch.zeros(1, 1, dtype=torch.int64)
        for axis, (pad, size) in enumerate(zip(pads, sizes)):
            along = torch.arange(size).expand(batch, size)
            if self.flip and axis == len(pads) - 1:
                along = torch.where(mirrored[index, None], size - 1 - along, along)
            along = along + shifts[index, axis : axis + 1]
            positions = (positions[:, :, None] * (size + 2 * pad) + along[:, None, :]).view(batch, -1)
        rest = x.shape[1 : x.dim() - len(pads)].numel()
        flat = padded.reshape(batch, rest, -1)
        return flat.gather(2, positions[:, None, :].expand(batch, rest, positions.shape[1])).view(x.shape)

    def _transformed(self, x: Tensor, index: Tensor, view: int, where: str) -> Tensor:
        """Return a batch after the function, applied per sample, so that samples do not depend on each other."""
        function, results = self._callable, []
        for sample, number in zip(x, index.tolist()):
            try:
                result = function(sample.clone(), torch_generator(self.seed, "view", view, number))
            except Exception as error:  # the user's own code
                raise DataError(f"{where}: the view function {self._name} failed ({first_line(error)}).") from error
            if not isinstance(result, Tensor) or result.shape != sample.shape or result.dtype != sample.dtype:
                shown = f"{result.dtype} of shape {tuple(result.shape)}" if isinstance(result, Tensor) else repr(result)
                raise DataError(
                    f"{where}: the view function {self._name} returned {shown} for a sample that is {sample.dtype} of "
                    f"shape {tuple(sample.shape)}."
                )
            results.append(result)
        return torch.stack(results)

    @cached_property
    def _callable(self) -> ViewFunction:
        if not isinstance(self.function, str):
            assert self.function is not None
            return self.function
        found: ViewFunction = load_reference(self.function, what="data.views.function", paths=self.paths)
        if not callable(found):
            raise DataError(f"Views: {self.function} is not a function.")
        return found

    @property
    def _name(self) -> str:
        if isinstance(self.function, str):
            return self.function
        named: Any = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{named.__module__}:{named.__qualname__}"

    @cached_property
    def _code(self) -> str:
        # Computed once and pickled with the views: a worker that gets a pickled function may not have its source.
        function: Any = self._callable
        try:
            source = inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
        except (OSError, TypeError):
            source = ""
        return text_digest(source, 16)

    def __getstate__(self) -> dict[str, Any]:
        # A function given by name is imported again, since its module may not be importable when it is unpickled.
        if self.function is None:
            return {**self.__dict__}
        kept = {**self.__dict__, "_code": self._code}
        if isinstance(self.function, str):
            kept.pop("_callable", None)
        return kept


@lru_cache(maxsize=4)
def _random_shifts(seed: int, pads: tuple[int, ...], view: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return shifts (samples, axes), from 0 to twice the padding, and a mask of mirrored samples (samples,)."""
    generator = torch_generator(seed, "view", view)
    if len(set(pads)) == 1:
        shifts = torch.randint(0, 2 * pads[0] + 1, (samples, len(pads)), generator=generator)
    else:
        shifts = torch.stack([torch.randint(0, 2 * pad + 1, (samples,), generator=generator) for pad in pads], dim=1)
    mirrored = torch.rand(samples, generator=generator) < 0.5
    return shifts, mirrored
