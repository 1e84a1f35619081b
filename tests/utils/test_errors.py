import pytest

from nas_distill.utils import errors
from nas_distill.utils.errors import DataError, NasDistillError, did_you_mean, first_line


@pytest.mark.parametrize(
    ("word", "options", "end"),
    [
        ("trails", ["trials", "workers"], "; did you mean 'trials'?"),
        ("zzz", ["b", "a"], "; known: a, b."),
        ("zzz", [], "."),
        (True, ["on"], "; known: on."),
    ],
)
def test_unknown_words_get_a_suggestion_or_a_list(word, options, end):
    assert did_you_mean(word, options) == end


def test_a_long_list_of_options_is_truncated():
    text = did_you_mean("zzz", [f"option_{index:02}" for index in range(100)])
    assert "option_19" in text
    assert "option_20" not in text
    assert text.endswith(", ...")


def test_an_error_is_written_on_one_line():
    assert first_line(ValueError("one\n  two\tthree.")) == "ValueError: one two three"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(DataError("The data is bad.")) == "The data is bad"
    assert first_line(DataError()) == "DataError"
    assert first_line(KeyError("width")) == "KeyError: 'width'"


def test_a_long_error_is_truncated_to_the_limit():
    assert len(first_line(ValueError("x" * 5000))) == 300
    assert len(first_line(ValueError("x" * 5000), 20)) == 20


def test_every_error_class_is_caught_by_the_command_line():
    own = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(own) > 8
    assert all(issubclass(kind, NasDistillError) for kind in own)
