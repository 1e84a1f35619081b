"""Builders: calls with the arguments of their signatures, names, and identities."""

from __future__ import annotations

import copy
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_distill.spaces.architecture import Architecture
from nas_distill.utils.errors import BuildError, first_line
from nas_distill.utils.references import accepts_keyword

if TYPE_CHECKING:
    from torch import nn


Builder = Callable[..., Any]

# Arguments from the data, passed to builders that accept them; parameters must not have these names.
FROM_DATA = ("input_shape", "num_classes")


def call(
    builder: Builder,
    name: str,
    architecture: Architecture,
    arguments: Mapping[str, Any],
    *,
    input_shape: Sequence[int],
    num_classes: int,
) -> nn.Module:
    """Build the network of ``architecture``; ``input_shape`` is (C, H, W).

    Copies of the parameters and ``arguments`` are passed as keywords; also ``input_shape`` and ``num_classes``, if the
    signature accepts them. Initial weights come from torch's global generator, which the caller seeds.

    Raises:
        BuildError: the builder raised, or did not return a module.
    """
    from torch import nn

    data: dict[str, Any] = {"input_shape": tuple(int(size) for size in input_shape), "num_classes": int(num_classes)}
    taken = {key: value for key, value in data.items() if accepts_keyword(builder, key)}
    keywords: dict[str, Any] = {**copy.deepcopy(dict(arguments)), **taken, **architecture.to_dict()}
    try:
        module = builder(**keywords)
    except Exception as error:
        raise BuildError(f"builder {name} failed for architecture {architecture.hash}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise BuildError(
            f"builder {name} returned a {kind}, not a torch.nn.Module, for architecture {architecture.hash}."
        )
    return module


def describe(builder: str | Builder) -> str:
    """Return the name of a builder, ``package.module:function``."""
    if isinstance(builder, str):
        return builder
    if isinstance(builder, functools.partial):
        return describe(builder.func)
    named = builder if hasattr(builder, "__qualname__") else type(builder)
    return f"{getattr(named, '__module__', '?')}:{named.__qualname__}"


def identity(builder: str | Builder) -> str:
    """Return a text that identifies a builder: its name, and the source of a function if available."""
    if isinstance(builder, str):
        return builder
    if isinstance(builder, functools.partial):
        return f"partial {identity(builder.func)} {plain_json([builder.args, builder.keywords])}"
    try:
        source = inspect.getsource(builder if hasattr(builder, "__qualname__") else type(builder))
    except (OSError, TypeError):
        source = ""
    return f"{describe(builder)}\n{source}"


def plain_json(value: Any) -> str:
    """Return ``value`` as JSON; other types are written as the names of their types, without addresses."""
    return json.dumps(value, default=lambda other: f"{type(other).__module__}:{type(other).__qualname__}")
