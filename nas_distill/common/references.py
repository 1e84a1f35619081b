"""Names of user code, ``package.module:function``, resolved to objects."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nas_distill.common.errors import ConfigError, did_you_mean, first_line


def is_reference(text: str) -> bool:
    """Say whether ``text`` has the form ``package.module:function``."""
    module, colon, name = text.partition(":")
    return bool(colon) and bool(name) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def load_reference(text: str, *, what: str, paths: Sequence[str | Path] = ()) -> Any:
    """Import ``package.module:function``; ``paths`` (folders) are searched too, ``what`` names it in errors.

    Raises:
        ConfigError: the text is no reference, the module does not import, or it has no such name.
    """
    if not is_reference(text):
        raise ConfigError(f"{what} is '{text}', which is not of the form package.module:function.")
    for path in reversed([str(Path(path)) for path in paths]):
        if path not in sys.path:
            sys.path.insert(0, path)
    module_name, _, name = text.partition(":")
    importlib.invalidate_caches()  # the module may have been written since its folder was last looked into
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script that ends itself as it is imported must not end the search
        raise ConfigError(f"{what}: module '{module_name}' cannot be imported ({first_line(error)}).") from error
    for part in name.split("."):
        if not hasattr(found, part):
            names = [entry for entry in dir(found) if not entry.startswith("_")]
            raise ConfigError(f"{what}: module '{module_name}' has no '{name}'{did_you_mean(part, names)}")
        found = getattr(found, part)
    return found


def takes(function: Callable[..., Any], key: str) -> bool:
    """Say whether ``function`` may be called with the keyword ``key``; one whose signature cannot be read takes all."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD or (parameter.name == key and parameter.kind in named)
        for parameter in parameters
    )
