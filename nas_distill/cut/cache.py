"""A file that keeps a teacher's pruning plan and depth order, so that they are found once."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nas_distill.common.digests import file_digest, json_digest, text_digest
from nas_distill.common.errors import SpaceError
from nas_distill.common.files import write_text
from nas_distill.config import FromTeacherConfig
from nas_distill.cut.plan import Plan
from nas_distill.data import Dataset
from nas_distill.teacher import Teacher

FORMAT = 1


@dataclass(frozen=True)
class Findings:
    """What the space of a teacher's students is made of.

    Attributes:
        plan: what can be cut.
        order: indices of the droppable blocks, the one that goes first at the front; None where depth is no number.
    """

    plan: Plan
    order: tuple[int, ...] | None


def origin_of(teacher: Teacher, data: Dataset, options: FromTeacherConfig) -> dict[str, Any] | None:
    """Return all that findings depend on as JSON values; None where that cannot be told, so that none may be kept.

    That is where the code of a class is in no file, as in a notebook: a change of its ``forward`` would go unseen.
    """
    code = _code(teacher.module)
    if code is None:
        return None
    measured = [data.fingerprint, data.views.recipe(), options.samples] if options.depth == "redundancy" else None
    return {
        "format": FORMAT,
        "teacher": teacher.fingerprint,
        "code": code,
        "input_shape": list(data.input_shape),
        "blocks": None if options.blocks is None else list(options.blocks),
        "depth": options.depth if options.depth in ("redundancy", "position") else None,
        "measured": measured,
    }


def read_findings(path: Path, expected: dict[str, Any]) -> Findings | None:
    """Return what a file holds; None if it is missing or damaged, or if its origin is another one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256") != json_digest(content) or content["origin"] != json.loads(json.dumps(expected)):
            return None
        order = content["order"]
        return Findings(Plan.from_dict(content["plan"]), None if order is None else tuple(order))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SpaceError):
        return None


def write_findings(path: Path, findings: Findings, origin: dict[str, Any]) -> None:
    """Write findings and their origin into a file, atomically.

    Raises:
        OSError: it cannot be written.
    """
    order = None if findings.order is None else list(findings.order)
    content = {"origin": origin, "order": order, "plan": findings.plan.to_dict()}
    # On one line: indented, the places of units would take a line each.
    write_text(path, json.dumps({"sha256": json_digest(content), **content}) + "\n")


def _code(module: nn.Module) -> str | None:
    """Return a digest of the files that the classes of a network are written in; None if one is in no file."""
    classes = {base for part in module.modules() for base in type(part).__mro__ if base.__module__ != "builtins"}
    try:
        files = {inspect.getsourcefile(one) for one in classes}
        contents = sorted(file_digest(Path(file or "")) for file in files)
    except (OSError, TypeError):
        return None
    return text_digest("".join(contents))
