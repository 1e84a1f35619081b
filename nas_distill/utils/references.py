"""References to user code, ``package.module:function``, resolved to objects."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from nas_distill.utils.errors import ConfigError, TrustError, did_you_mean, first_line

_NETWORKS = ("nas_distill.models.mbconv", "nas_distill.models.resnet")
_CUT = "nas_distill.pruning.build:build"  # it resolves the name of the teacher's builder by the same rule
_distrusted: ContextVar[str | None] = ContextVar("distrusted", default=None)
_used: dict[str, Any] = {}


def is_reference(text: str) -> bool:
    """Return True if ``text`` has the form ``package.module:function``."""
    module, colon, name = text.partition(":")
    return bool(colon) and bool(name) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def last_name(text: str) -> str:
    """Return the last name of a reference: ``name`` of ``package.module:name`` and of ``package.module:Class.name``."""
    return text.rpartition(":")[2].rpartition(".")[2]


def search_first(folders: Iterable[str | Path]) -> None:
    """Put folders at the front of the import path, in their order; folders that are on it already are moved.

    The driver does this with the folders of a search file. Each worker process does it with the whole import path of
    the driver (``import_path``), so a name refers to the same module in all processes.
    """
    first = list(dict.fromkeys(str(Path(folder).absolute()) for folder in folders))
    sys.path[:] = [*first, *(path for path in sys.path if path not in first)]


def import_path() -> list[str]:
    """Return the import path of this process as absolute folders, for ``search_first`` in another process."""
    return [str(Path(path).absolute()) for path in sys.path]


@contextmanager
def only_known(folder: str | Path) -> Iterator[None]:
    """Restrict ``load_reference`` within the block to known code, for names that come from an untrusted folder.

    It resolves functions and network classes that the modules of ``nas_distill.models`` define themselves, the builder
    of students that are cut from such a teacher, and builders that this process has used (``remember_builder``). Any
    other name raises TrustError, whose message names ``folder``, from which the names were read.
    """
    token = _distrusted.set(str(folder))
    try:
        yield
    finally:
        _distrusted.reset(token)


def remember_builder(name: str, builder: Any) -> None:
    """Register a builder that the user's own code or search file uses, so that ``only_known`` admits its name."""
    if _distrusted.get() is None and (inspect.isfunction(builder) or _is_network(builder)):
        _used[name] = builder


def load_reference(text: str, *, what: str, paths: Sequence[str | Path] = ()) -> Any:
    """Import ``package.module:function``; the folders ``paths`` are searched too, ``what`` names it in errors.

    Raises:
        ConfigError: the text is not a reference, the module cannot be imported, or it has no such name.
        TrustError: within ``only_known``, the name is not known.
    """
    if not is_reference(text):
        raise ConfigError(f"{what} is '{text}', which is not of the form package.module:function.")
    if (folder := _distrusted.get()) is not None:
        return _known(text, what, folder)
    search_first(paths)
    module_name, _, name = text.partition(":")
    importlib.invalidate_caches()  # the module may be newer than the cached listing of its folder
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script that exits during its import must not end the search
        raise ConfigError(f"{what}: module '{module_name}' cannot be imported ({first_line(error)}).") from error
    for part in name.split("."):
        if not hasattr(found, part):
            names = [entry for entry in dir(found) if not entry.startswith("_")]
            raise ConfigError(f"{what}: module '{module_name}' has no '{name}'{did_you_mean(part, names)}")
        found = getattr(found, part)
    return found


def _known(text: str, what: str, folder: str) -> Any:
    if text in _used:
        return _used[text]
    module_name, _, name = text.partition(":")
    if module_name in _NETWORKS or text == _CUT:
        found = vars(importlib.import_module(module_name)).get(name)
        if getattr(found, "__module__", None) == module_name and (inspect.isfunction(found) or _is_network(found)):
            return found
    raise TrustError(
        f"{what} is '{text}', which would run code that {folder} names; give trust=True (--trust) if you trust that "
        "folder."
    )


def _is_network(found: Any) -> bool:
    from torch import nn

    return isinstance(found, type) and issubclass(found, nn.Module)


def accepts_keyword(function: Callable[..., Any], key: str) -> bool:
    """Return True if ``function`` accepts the keyword ``key``, or has no readable signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD or (parameter.name == key and parameter.kind in named)
        for parameter in parameters
    )
