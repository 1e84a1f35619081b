import pytest

from nas_distill.spaces import Choice, IntRange
from nas_distill.spaces.notation import dump, parse
from nas_distill.utils.errors import SpaceError

EVERYTHING = {
    "depth": {"int": [0, 4], "step": 2},
    "act": {"choice": ["relu", "swish"]},
    "rate": {"choice": [0.5, 1], "when": {"act": "swish", "depth": [2, 4]}},
    "blocks": {"repeat": "depth", "of": {"kernel": [3, 5], "se": {"choice": [True, False], "when": {"act": ["relu"]}}}},
    "kernels": {"repeat": 3, "of": [1, 3]},
    "strides": {"repeat": 2, "of": {"int": [1, 2]}, "when": {"depth": 0}},
    "stages": {"each": [{"width": [8]}, {"width": {"int": [8, 16], "step": 8}}], "when": {"act": "relu"}},
}


def test_every_form_round_trips():
    tree = parse(EVERYTHING)
    written = dump(tree)
    assert parse(written) == tree
    assert list(written) == list(EVERYTHING)
    assert written["depth"] == EVERYTHING["depth"]
    assert written["act"] == ["relu", "swish"]
    assert written["stages"]["each"] == EVERYTHING["stages"]["each"]


def test_short_long_and_python_forms_are_equal():
    forms = [[1, 2], (1, 2), {"choice": [1, 2]}, range(1, 3), Choice((1, 2))]
    assert len({parse({"x": form}) for form in forms}) == 1
    assert parse({"x": IntRange(1, 5, 2)}) == parse({"x": {"int": [1, 5], "step": 2}})


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({}, "the space has no parameters"),
        ([1], "the space must map names"),
        ({"a": []}, "'a': a choice needs at least one value"),
        ({"a": [1, 1]}, "'a': the value 1 is given twice"),
        ({"a": {"int": [3, 1]}}, "'a': an integer range from 3 to 1"),
        ({"a": {"int": [1, 4], "step": 2}}, "'a': steps of 2"),
        ({"a": {"int": [1, 2, 3]}}, "'a': 'int' takes"),
        ({"a": {"int": 3}}, "'a': 'int' must be a list"),
        ({"a": {"choice": "abc"}}, "'a': 'choice' must be a list"),
        ({"a": {"chioce": [1]}}, "'a': unknown key 'chioce'; did you mean 'choice'"),
        ({"a": {"int": [1, 2], "stpe": 1}}, "'a': unknown key 'stpe'; did you mean 'step'"),
        ({"a": {"choice": [1], "step": 1}}, "'a': unknown key 'step'"),
        ({"a": {"choice": [1], "int": [1, 2]}}, "'a' has 'choice' and 'int'"),
        ({"a": {"when": {"b": 1}}}, "'a' needs one of the keys"),
        ({"a": 3}, r"'a' is 3; list its values, as in \[3\]"),
        ({"a": None}, "'a' is null"),
        ({"a.b": [1]}, "'a.b' needs another name"),
        ({"int": [1, 2]}, "'int' needs another name"),
        ({3: [1]}, "'3' needs another name"),
        ({"a": {"repeat": 2}}, "'a': 'repeat' needs 'of'"),
        ({"a": {"repeat": 0, "of": {"x": [1]}}}, "'a': 'repeat' is 0"),
        ({"a": {"repeat": True, "of": {"x": [1]}}}, "'a': 'repeat' is true"),
        ({"a": {"repeat": 2, "of": {}}}, "'a' has no parameters"),
        ({"a": {"repeat": 2, "of": {"x": []}}}, "'a.x': a choice needs"),
        ({"a": {"repeat": 2, "of": {"repeat": 2, "of": [1]}}}, "'a': 'of' is a list itself"),
        ({"a": {"repeat": 2, "of": {"choice": [1], "when": {"b": 1}}}}, "put 'when' beside 'repeat'"),
        ({"a": {"each": []}}, "'a': 'each' must list"),
        ({"a": {"each": [{"x": [1]}, {"x": []}]}}, "'a.1.x': a choice needs"),
    ],
)
def test_an_invalid_parameter_is_named(specs, message):
    with pytest.raises(SpaceError, match=message):
        parse(specs)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            {"b": {"repeat": "dept", "of": [1]}, "depth": [1]},
            "'b': 'repeat' refers to unknown parameter 'dept'; did you",
        ),
        ({"b": {"repeat": "depth", "of": [1]}, "depth": [1]}, "'b': 'repeat' refers to 'depth', which is not declared"),
        ({"d": ["x", "y"], "b": {"repeat": "d", "of": [1]}}, "'b': 'repeat' refers to 'd', whose values must be"),
        ({"d": [1.0, 2.0], "b": {"repeat": "d", "of": [1]}}, "'b': 'repeat' refers to 'd', whose values must be"),
        ({"d": [True], "b": {"repeat": "d", "of": [1]}}, "'b': 'repeat' refers to 'd', whose values must be"),
        ({"d": {"int": [-1, 2]}, "b": {"repeat": "d", "of": [1]}}, "'b': 'repeat' refers to 'd', whose values must"),
        (
            {"l": {"repeat": 2, "of": [1]}, "b": {"repeat": "l", "of": [1]}},
            "'b': 'repeat' refers to 'l', which is a list",
        ),
        ({"b": {"choice": [1], "when": {"c": 1}}, "c": [1]}, "'b': 'when' refers to 'c', which is not declared before"),
        ({"b": {"choice": [1], "when": {"b": 1}}}, "'b': 'when' refers to 'b', which is not declared before it"),
        (
            {"a": [1, 2], "b": {"choice": [1], "when": {"a": 3}}},
            "'b': 'when' gives 'a' a value .*: 3 is not one of 1, 2",
        ),
        (
            {"a": [1, 2], "b": {"choice": [1], "when": {"a": True}}},
            "'b': 'when' gives 'a' a value .*: true is not one of",
        ),
        ({"a": [1, 2], "b": {"choice": [1], "when": {"a": []}}}, "'b': 'when' gives no value for 'a'"),
        ({"a": [1], "b": {"choice": [1], "when": {}}}, "'b': 'when' must map"),
        ({"a": [1], "b": {"choice": [1], "when": "a"}}, "'b': 'when' must map"),
        (
            {"g": {"repeat": 2, "of": {"x": [1]}}, "b": {"choice": [1], "when": {"x": 1}}},
            "'b': 'when' refers to unknown",
        ),
        ({"g": {"repeat": 2, "of": {"y": {"choice": [1], "when": {"z": 1}}}}, "z": [1]}, "'g.y': .* 'z', which is not"),
        (
            {"g": {"repeat": 2, "of": {"y": {"choice": [1], "when": {"g": 1}}}}},
            "'g.y': 'when' refers to 'g', which is not",
        ),
    ],
)
def test_an_invalid_reference_is_named(specs, message):
    with pytest.raises(SpaceError, match=message):
        parse(specs)


def test_a_name_refers_to_the_innermost_parameter():
    inner_first = {"d": [1], "g": {"repeat": 1, "of": {"d": [2, 3], "x": {"choice": [0], "when": {"d": 2}}}}}
    assert parse(inner_first)
    with pytest.raises(SpaceError, match="not declared before"):
        parse({"d": [1], "g": {"repeat": 1, "of": {"x": {"choice": [0], "when": {"d": 1}}, "d": [2]}}})
