"""Trust in run folders: the code and files that may be loaded from a run of another user."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from nas_distill.config import SearchFile
from nas_distill.data.loaders import BUILT_IN
from nas_distill.runs.folder import RunFolder
from nas_distill.spaces.catalog import names as space_names
from nas_distill.teacher import shipped_teachers
from nas_distill.utils.errors import TrustError
from nas_distill.utils.files import is_own, links_outside, plain_file, record_ownership
from nas_distill.utils.references import is_reference, only_known


def remember_run(folder: RunFolder, base: str) -> None:
    """Record that this user made the run, with digests of its search file and ``base``.

    ``base`` is the folder of relative files and modules, as in the run's metadata.
    """
    record_ownership(folder.path, folder.search_yaml.read_bytes(), base.encode())


def is_own_run(folder: RunFolder, base: str) -> bool:
    """Return True if ``remember_run`` recorded the run in its present state."""
    try:
        content = plain_file(folder.path, folder.search_yaml.name).read_bytes()
    except (OSError, ValueError):
        return False
    return is_own(folder.path, content, base.encode())


def refuse_links(folder: RunFolder) -> None:
    """Refuse another user's run whose links lead out of its folder.

    Raises:
        TrustError: it contains such a link.
    """
    link = links_outside(folder.path)
    if link is not None:
        raise TrustError(f"{link} leads out of {folder.path}; give trust=True (--trust) if you trust that folder.")


def guard(
    folder: RunFolder, config: SearchFile, base: str, objects: Mapping[str, Any], *, trust: bool
) -> AbstractContextManager[None]:
    """Return a context for loading a run's problem, which refuses other users' code unless trusted.

    ``objects`` replace sections of ``config``. Declared trust is recorded for later calls.

    Raises:
        TrustError: the run is another user's, and names files or contains links out of its folder.
    """
    if trust:
        remember_run(folder, base)
        return nullcontext()
    if is_own_run(folder, base):
        return nullcontext()
    refuse_links(folder)
    for key, value in _files(config, objects).items():
        if value is not None:
            raise TrustError(
                f"{folder.search_yaml}: '{key}' names the file '{value}', and the run was not made by you on this "
                "machine at this place; give trust=True (--trust) if you trust that folder."
            )
    return only_known(folder.path)


def _files(config: SearchFile, objects: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the files that a search file names, by key, besides references to code; None where a key names none."""
    found: dict[str, str | None] = {
        "teacher.store": config.teacher.store,
        "blockwise.library": config.blockwise.library,
    }
    if objects.get("data") is None:
        known = config.data.name in BUILT_IN or is_reference(config.data.name) or config.data.name.startswith("<")
        found |= {"data.name": None if known else config.data.name, "data.root": config.data.root}
    if objects.get("teacher") is None:
        for source in (config.teacher, *config.teacher.others):
            shipped = source.name is None or source.name in shipped_teachers() or source.name.startswith("<")
            found |= {"teacher.name": None if shipped else source.name, "teacher.weights": source.weights}
            if any(value is not None for value in found.values()):
                break
    if objects.get("space") is None and isinstance(config.space, str):
        known = config.space in space_names() or config.space == "from_teacher"
        found["space"] = None if known else config.space
    return found
