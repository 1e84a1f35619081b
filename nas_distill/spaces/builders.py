"""Calls of builders with the arguments that their signatures ask for."""

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

# Given to a builder if it takes them; they come from the data, so no parameter can have these names.
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

    The parameters and ``arguments`` are passed as keywords, copied; ``input_shape`` and ``num_classes`` too where the
    signature has them, or takes any keyword. Initial weights come from torch's global generator: the caller seeds it.

    Raises:
        BuildError: the builder raised, or returned no module.
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
        raise BuildError(f"builder {name} made a {kind}, no torch.nn.Module, for architecture {architecture.hash}.")
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
    """Return a text that changes with the builder: its name, and the source of a function where it can be had."""
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
    """Return ``value`` as JSON; what JSON does not know is written as the name of its type, never as an address."""
    return json.dumps(value, default=lambda other: f"{type(other).__module__}:{type(other).__qualname__}")
