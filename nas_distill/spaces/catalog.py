"""Search spaces by name: shipped spaces and space files of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_distill.spaces.space import SearchSpace
from nas_distill.utils.errors import SpaceError, did_you_mean
from nas_distill.utils.strict_yaml import load_strict

_SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """Return the sorted names of the shipped spaces."""
    return sorted(path.stem for path in shipped_folder().glob("*.yaml"))


def load_space(space: str | Path | Mapping[str, Any] | SearchSpace, paths: Sequence[str | Path] = ()) -> SearchSpace:
    """Return a space by name of a shipped one, by path of a space file, or from a mapping with a file's keys.

    ``paths`` are folders in which a relative file and the module of a builder are searched before the current folder.
    The module of a builder is also searched in the folder of the space file.

    Raises:
        SpaceError: the space does not exist, or is invalid; the message has the file, the parameter and a suggestion.
    """
    if isinstance(space, SearchSpace):
        return space
    if isinstance(space, Mapping):
        return SearchSpace.from_dict(space, paths=paths)
    text = str(space)
    if isinstance(space, Path) or text.endswith(_SUFFIXES) or "/" in text:
        return _load_file(Path(text), paths)
    if text not in names():
        raise SpaceError(f"unknown search space '{text}'{did_you_mean(text, names())}")
    return _load_file(shipped_folder() / f"{text}.yaml", paths)


def shipped_folder() -> Path:
    """Return the folder of the shipped spaces: inside an installed package, or next to the package in a checkout."""
    inside = Path(__file__).parent / "shipped"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "search_spaces"


def _load_file(path: Path, paths: Sequence[str | Path]) -> SearchSpace:
    options = [Path(folder).expanduser() / path.expanduser() for folder in [*paths, "."]]
    found = next((option for option in options if option.is_file()), None)
    if found is None:
        raise SpaceError(f"space file {path} does not exist; the shipped spaces are {', '.join(names())}.")
    content = load_strict(found, SpaceError, what="space file ")
    return SearchSpace.from_dict(
        content,
        name=None if isinstance(content, Mapping) and content.get("name") else found.stem,
        paths=[*paths, found.parent],
        source=str(found),
    )
