"""Reports as plain values, for ``--json``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from nas_distill.report.model import FinalReport


def to_plain(value: Any) -> Any:
    """Return a report as dicts, lists and scalars for ``--json``; numbers that are not finite become None.

    Keys are the attributes' names, which carry the units; derived figures of a ``FinalReport`` are among them.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {entry.name: to_plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
        return plain | ({"speed_up": to_plain(value.speed_up)} if isinstance(value, FinalReport) else {})
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
