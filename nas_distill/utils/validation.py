"""Strict pydantic models, and validation errors of pydantic as one readable sentence."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from nas_distill.utils.errors import did_you_mean

# Names of the alternative types of a field in the location of a pydantic error.
_FORM = re.compile(r"(str|int|float|bool|constrained-\w+|(literal|dict|list|tuple)\[.*\]|\[key\])")
_EXPECTED = {
    **dict.fromkeys(["int_type", "int_parsing", "int_from_float"], "a whole number"),
    **dict.fromkeys(["float_type", "float_parsing"], "a number"),
    **dict.fromkeys(["bool_type", "bool_parsing"], "true or false"),
    **dict.fromkeys(["model_type", "dict_type"], "a mapping of keys to values"),
    **dict.fromkeys(["tuple_type", "list_type"], "a list"),
    "string_type": "text",
}

FLAT = "flat"
"""Metadata of a field that contains another section, whose keys a file writes at the level of the outer section."""


def file_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by their keys in a file; a flat section is replaced by its own fields."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = _section_of(field.annotation) if FLAT in field.metadata else None
        found |= {name: field} if inner is None else file_fields(inner)
    return found


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys, infinite numbers, and booleans in place of numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_value(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes, no, on and off as booleans, which pydantic would accept as 1 and 0.
        if isinstance(value, bool) and not {bool, Any} & union_parts(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"must not be {'yes' if value else 'no'}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must not contain a NUL character")  # not allowed in names and paths
        return value


def explain(model: type[BaseModel], content: Any, error: ValidationError) -> str:
    """Return the first error (unknown keys before all others) as one sentence that names its field.

    ``content`` is the validated value. The ``description`` of a field with several types says what it expects.
    """
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    path = _path(content, problem["loc"])
    field, given = ".".join(path), problem.get("input")
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{field}'{did_you_mean(path[-1], _keys_at(model, path[:-1]))}"
    if problem["type"] == "missing":
        return f"'{field}' is missing."
    if problem["type"] == "invalid_key":
        return f"the key {given!r} is not text; write it in quotes, or choose another key."
    shown = "nothing" if given is None else reprlib.repr(given)
    expected = _description(model, path) if len(path) < len(problem["loc"]) else _EXPECTED.get(problem["type"])
    if expected is not None:
        return f"'{field}' must be {expected} (given: {shown})."
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "value_error":
        value = "" if isinstance(given, dict) else f" (given: {shown})"
        return f"'{field}': {message}{value}." if field else f"{message}."
    end = "."
    if problem["type"] == "literal_error" and isinstance(given, str):
        near = did_you_mean(given, re.findall(r"'([^']*)'", message))
        end = near if near.endswith("?") else end
    return f"'{field}' must be {message} (given: {shown}){end}"


def union_parts(annotation: Any) -> set[Any]:
    """Return the members of a union, or the type itself."""
    return set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}


def _path(content: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the path of keys to an error.

    Each alternative type of a field adds a name such as ``int`` to the location, which is not part of the path; a key
    of the file may have such a name too.
    """
    path: list[str] = []
    value = content
    for part in location:
        entry = isinstance(part, int) and isinstance(value, list | tuple) and part < len(value)
        if entry or (isinstance(value, Mapping) and part in value):
            value = value[part]
        elif _FORM.fullmatch(str(part)):
            continue
        else:
            value = None
        path.append(str(part))
    return path


def _description(model: type[BaseModel], path: list[str]) -> str | None:
    """Return the description of a field with several types; ``path`` may continue into its value."""
    for part in path:
        field = file_fields(model).get(part)
        if field is None:
            if part.isdecimal():
                continue  # an entry of a list of sections
            return None
        inner = _section_of(field.annotation)
        if inner is None:
            return field.description
        model = inner
    return None


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = file_fields(model).get(part)
        inner = None if field is None else _section_of(field.annotation)
        if inner is not None:
            model = inner
    return list(file_fields(model))


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field, or an entry of its list, contains; None if it contains none."""
    parts = union_parts(annotation)
    parts |= {entry for part in parts if get_origin(part) is tuple for entry in get_args(part)}
    sections = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
    return sections[0] if sections else None
