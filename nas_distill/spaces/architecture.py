"""Architectures: points of a search space in canonical form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from nas_distill.utils.checkpoints import text_digest
from nas_distill.utils.errors import SpaceError

Scalar: TypeAlias = str | int | float | bool | None
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"


@dataclass(frozen=True, init=False, repr=False)
class Architecture:
    """Values of the active parameters of a space: nested dicts and lists of scalars.

    Equal architectures compare and hash equal for any order of their keys; ``1``, ``1.0`` and ``True`` are three
    different values (``SearchSpace.validate`` converts ``8.0`` to ``8`` for integer parameters). Immutable: all
    returned values are copies.

    Raises:
        SpaceError: a key is not a string, or a value is not a finite scalar, or a list or dict of such.
    """

    _text: str

    def __init__(self, values: Mapping[str, Any]) -> None:
        if not isinstance(values, Mapping):
            raise SpaceError(f"an architecture must be a mapping of parameters to values, not {_kind(values)}.")
        plain = to_plain(values)
        object.__setattr__(self, "_text", json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False))

    @property
    def values(self) -> dict[str, Value]:
        """The values as a fresh copy, keys sorted at every level."""
        return cast(dict[str, Value], json.loads(self._text))

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON, the architecture's name."""
        return text_digest(self._text, 16)

    def to_dict(self) -> dict[str, Value]:
        """Return the values as a fresh nested dict."""
        return self.values

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces."""
        return self._text

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read an architecture from JSON, as written by ``to_json`` or in any other form.

        Raises:
            SpaceError: the text is not a JSON object of finite scalars, lists and objects.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise SpaceError(f"an architecture is not valid JSON ({error}).") from error
        return cls(values)

    def __repr__(self) -> str:
        return f"Architecture({self.hash}, {self._text})"


def to_plain(value: Any, path: str = "") -> Value:
    """Copy ``value`` as plain dicts, lists and scalars; converts NumPy scalars and tuples.

    Raises:
        SpaceError: a value cannot be converted; the message has its path.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpaceError(f"{_place(path)} is {value}; values of an architecture must be finite.")
        return float(value) + 0.0  # -0.0 becomes 0.0: they are equal, so their text must be
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpaceError(
                    f"the key {key!r} of {_place(path)} is not a string; names of parameters must be strings."
                )
        return {str(key): to_plain(inner, join(path, key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner, join(path, index)) for index, inner in enumerate(value)]
    raise SpaceError(f"{_place(path)} is {_kind(value)}; it must be a number, string, boolean, null, list or mapping.")


def join(path: str, name: str | int) -> str:
    """Return the flat name of ``name`` inside ``path``, as in ``stages.0.kernel``."""
    return f"{path}.{name}" if path else str(name)


def _place(path: str) -> str:
    return f"parameter '{path}'" if path else "a value"


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"
