"""Options of registered functions: reading from signatures, validation and documentation.

Losses, samplers, costs and runtimes are found by name, and a user's own by ``package.module:name``. The parameters of
the function or class are its options in a search file; annotations and defaults define how they are validated.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from nas_distill.utils.errors import ConfigError, first_line
from nas_distill.utils.validation import StrictModel, explain

_Kind = inspect.Parameter


def read_options(
    target: Callable[..., Any], *, reserved: Collection[str] = (), keyword_only: bool = True
) -> type[BaseModel]:
    """Return a model whose fields are the parameters of a function or class.

    Args:
        target: the function or class.
        reserved: parameters that are not options, because the caller passes them.
        keyword_only: if True, only parameters after ``*`` are options; otherwise all that can be passed by name are,
            and a ``**`` parameter admits further ones.

    Raises:
        ConfigError: the signature cannot be read, or an annotation is not a type that can be validated.
    """
    kinds = (_Kind.KEYWORD_ONLY,) if keyword_only else (_Kind.KEYWORD_ONLY, _Kind.POSITIONAL_OR_KEYWORD)
    fields: dict[str, Any] = {}
    further = False
    name = getattr(target, "__name__", type(target).__name__)
    try:
        for parameter in inspect.signature(target).parameters.values():
            if parameter.kind in kinds and parameter.name not in reserved:
                default = ... if parameter.default is _Kind.empty else parameter.default
                fields[parameter.name] = (_annotation(parameter, target), default)
            further |= parameter.kind is _Kind.VAR_KEYWORD and not keyword_only
        config = ConfigDict(
            extra="allow" if further else "forbid", arbitrary_types_allowed=True, protected_namespaces=()
        )
        base: type[BaseModel] = type("Options", (StrictModel,), {"model_config": config, "__module__": __name__})
        model: type[BaseModel] = create_model(f"{name}_options", __base__=base, **fields)
    except Exception as error:  # annotations of user code may be anything
        raise ConfigError(
            f"the options of '{name}' cannot be read from its signature ({first_line(error)})."
        ) from error
    return model


def check_options(model: type[BaseModel], given: Mapping[str, Any], where: str) -> BaseModel:
    """Return options as an instance of ``model``, with defaults for missing ones.

    Raises:
        ConfigError: an unknown option or an invalid value; the sentence begins with ``where``.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(model, given, error)}") from error


def given_options(options: BaseModel) -> dict[str, Any]:
    """Return the validated options that were set explicitly, without defaults."""
    return {name: getattr(options, name) for name in options.model_fields_set}


def about(target: Callable[..., Any]) -> str:
    """Return the first line of a docstring, without its full stop."""
    return (inspect.getdoc(target) or "").partition("\n")[0].rstrip(".")


def option_notes(target: Callable[..., Any]) -> dict[str, str]:
    """Return the text of each parameter in the section ``Args`` of a docstring."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", inspect.getdoc(target) or "", flags=re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", flags=re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def options_cell(target: Callable[..., Any], model: type[BaseModel]) -> str:
    """Return the options of a registered function as the cell of a Markdown table: defaults and descriptions."""
    notes = option_notes(target)
    cells = []
    for name, field in model.model_fields.items():
        shown = name if field.is_required() else f"{name}: {_as_yaml(field.default)}"
        cells.append(f"`{shown}` ({notes[name]})" if name in notes else f"`{shown}`")
    return ", ".join(cells) or "none"


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _annotation(parameter: inspect.Parameter, target: Callable[..., Any]) -> Any:
    """Return the type of a parameter; Any if it has none, or one that is imported only for type checkers."""
    if parameter.annotation is _Kind.empty:
        return Any
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    function = inspect.unwrap(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    try:
        single = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        return get_type_hints(single, getattr(function, "__globals__", {}), include_extras=True)[parameter.name]
    except Exception:
        return Any
