"""What a search is, in digests: a resumed run must be the same search, or its scores would not be comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from nas_distill.common.digests import json_digest
from nas_distill.common.errors import RunError
from nas_distill.run.folder import RunFolder
from nas_distill.run.journal import Journal


def identity_of(**sections: Any) -> dict[str, str]:
    """Return one digest a section; each value is JSON or a section of a search file.

    Sections are what scores and their meaning depend on: data, teacher, space, score, budget, objectives, latency,
    seed. What only decides how far or how fast a search goes (trials, workers, time limit) stays out, so that it may be
    changed when a run is resumed.
    """
    return {name: json_digest(_plain(value), 16) for name, value in sections.items()}


def hold_identity(folder: RunFolder, journal: Journal, identity: Mapping[str, str]) -> None:
    """Write a new run's identity down, or check that a resumed run has it.

    Raises:
        RunError: it is the run of another search; names the sections that differ.
    """
    known = journal.metadata.identity
    if not known:
        journal.note(identity=dict(identity))
        return
    differ = sorted(name for name in {*known, *identity} if known.get(name) != identity.get(name))
    if differ:
        named = ", ".join(f"'{name}'" for name in differ)
        raise RunError(
            f"{folder.path} was begun with another {named}, so its scores do not compare; "
            "undo the change to resume it, or search in another folder."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        # What is null is as if it were not there, so that a run may go on under a version that knows another key.
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
