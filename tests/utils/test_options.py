from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest

from nas_distill.utils.errors import ConfigError
from nas_distill.utils.options import about, check_options, given_options, option_notes, options_cell, read_options

if TYPE_CHECKING:
    from nowhere import Unknown


def made(first: int, *, width: int = 3, mode: Literal["a", "b"] = "a", call: Callable[[], int] | None = None) -> None:
    """Something with options.

    More of it.

    Args:
        first: not an option by default.
        width: a width in
            two lines.
        mode: one of two.

    Raises:
        ValueError: never.
    """


class Made:
    def __init__(self, size: int = 2, seed: int = 0, odd: Unknown = None, **further: Any) -> None:
        pass


def test_options_are_the_parameters_after_the_star() -> None:
    model = read_options(made)

    assert list(model.model_fields) == ["width", "mode", "call"]
    assert given_options(check_options(model, {"width": 5}, "here")) == {"width": 5}
    assert check_options(model, {}, "here").model_dump() == {"width": 3, "mode": "a", "call": None}


def test_options_of_a_class_are_those_of_its_init_without_reserved_ones() -> None:
    model = read_options(Made, reserved=["seed"], keyword_only=False)

    assert list(model.model_fields) == ["size", "odd"]
    # A name that is imported for type checkers only has no type here, and ** admits further options.
    assert given_options(check_options(model, {"odd": [1], "other": 2}, "here")) == {"odd": [1], "other": 2}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"widht": 3}, "here: unknown key 'widht'; did you mean 'width'?"),
        ({"width": "x"}, "here: 'width' must be a whole number (given: 'x')."),
        ({"width": True}, "here: 'width': must not be yes (given: True)."),
        ({"mode": "c"}, "here: 'mode' must be 'a' or 'b' (given: 'c')."),
    ],
)
def test_an_invalid_option_is_named(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_options(read_options(made), given, "here")
    assert str(raised.value) == sentence


def test_an_unreadable_signature_is_refused() -> None:
    class Odd:
        __signature__ = "none"

        def __call__(self) -> None:
            pass

    with pytest.raises(ConfigError, match="cannot be read from its signature"):
        read_options(Odd())


def test_documentation_is_read_from_the_docstring() -> None:
    assert about(made) == "Something with options"
    assert option_notes(made) == {
        "first": "not an option by default",
        "width": "a width in two lines",
        "mode": "one of two",
    }
    assert options_cell(made, read_options(made)) == (
        "`width: 3` (a width in two lines), `mode: a` (one of two), `call: null`"
    )
    assert option_notes(Made) == {}
    assert options_cell(Made, read_options(Made)) == "none"
