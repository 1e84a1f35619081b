"""Trust in run folders: what may be loaded from a run of another origin."""

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
from nas_distill.utils.files import is_own, links_outside, plain_file, remember_own
from nas_distill.utils.references import is_reference, only_known


def remember_run(folder: RunFolder, base: str) -> None:
    """Note that this user's search has made the run, and what it names.

    ``base`` is the fact of the run's journal that says where relative files and modules are looked for.
    """
    remember_own(folder.path, folder.search_yaml.read_bytes(), base.encode())


def is_own_run(folder: RunFolder, base: str) -> bool:
    """Say whether ``remember_run`` has noted the run as it is now."""
    try:
        content = plain_file(folder.path, folder.search_yaml.name).read_bytes()
    except (OSError, ValueError):
        return False
    return is_own(folder.path, content, base.encode())


def refuse_links(folder: RunFolder) -> None:
    """Refuse a stranger's run that would have files read outside of its folder.

    Raises:
        TrustError: it holds a link that leads out of it.
    """
    link = links_outside(folder.path)
    if link is not None:
        raise TrustError(f"{link} leads out of {folder.path}; give trust=True (--trust) if you trust that folder.")


def guard(
    folder: RunFolder, config: SearchFile, base: str, given: Mapping[str, Any], *, trust: bool
) -> AbstractContextManager[None]:
    """Return the context in which a run's problem is loaded: one that refuses the code of strangers, unless trusted.

    ``given`` are the objects that stand in for sections of ``config``. Declared trust is noted for the next time.

    Raises:
        TrustError: the run is a stranger's, and names files or holds links that lead out of it.
    """
    if trust:
        remember_run(folder, base)
        return nullcontext()
    if is_own_run(folder, base):
        return nullcontext()
    refuse_links(folder)
    for key, value in _files(config, given).items():
        if value is not None:
            raise TrustError(
                f"{folder.search_yaml}: '{key}' names the file '{value}', and the run was not made by you on this "
                "machine at this place; give trust=True (--trust) if you trust that folder."
            )
    return only_known(folder.path)


def _files(config: SearchFile, given: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what a search file names outside of nas_distill, besides references to code; None where it does not."""
    found: dict[str, str | None] = {
        "teacher.store": config.teacher.store,
        "blockwise.library": config.blockwise.library,
    }
    if given.get("data") is None:
        known = config.data.name in BUILT_IN or is_reference(config.data.name) or config.data.name.startswith("<")
        found |= {"data.name": None if known else config.data.name, "data.root": config.data.root}
    if given.get("teacher") is None:
        for source in (config.teacher, *config.teacher.others):
            shipped = source.name is None or source.name in shipped_teachers() or source.name.startswith("<")
            found |= {"teacher.name": None if shipped else source.name, "teacher.weights": source.weights}
            if any(value is not None for value in found.values()):
                break
    if given.get("space") is None and isinstance(config.space, str):
        known = config.space in space_names() or config.space == "from_teacher"
        found["space"] = None if known else config.space
    return found
