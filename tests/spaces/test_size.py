import pytest

from nas_distill.spaces import SpaceSize
from nas_distill.spaces.notation import parse
from nas_distill.spaces.summary import measure


@pytest.mark.parametrize(
    ("specs", "count"),
    [
        ({"a": [1, 2, 3]}, 3),
        ({"a": [1, 2, 3], "b": {"int": [0, 10], "step": 5}}, 9),
        ({"x": {"repeat": 5, "of": [1, 2]}}, 32),
        ({"n": {"int": [0, 3]}, "x": {"repeat": "n", "of": {"k": [1, 2]}}}, 1 + 2 + 4 + 8),
        ({"a": [1, 2, 3], "b": {"choice": [1, 2], "when": {"a": [1, 2]}}}, 2 + 2 + 1),
        ({"s": {"each": [{"k": [1]}, {"k": [1, 2]}, {"k": [1, 2, 3]}]}}, 6),
    ],
)
def test_sizes_of_small_spaces(specs, count):
    assert measure(parse(specs)) == SpaceSize(count, exact=True)


def test_a_long_space_is_counted_exactly():
    specs = {}
    for index in range(40):
        specs[f"n{index}"] = {"int": [1, 3]}
        specs[f"x{index}"] = {"repeat": f"n{index}", "of": [1, 2]}
    assert measure(parse(specs)) == SpaceSize((2 + 4 + 8) ** 40, exact=True)


def test_beyond_the_step_limit_the_size_is_an_upper_bound():
    specs = {f"n{index}": {"int": [0, 2]} for index in range(6)}
    specs |= {f"x{index}": {"repeat": f"n{index}", "of": [1, 2]} for index in range(6)}
    exact, bound = measure(parse(specs)), measure(parse(specs), max_steps=100)
    assert exact == SpaceSize((1 + 2 + 4) ** 6, exact=True)
    assert not bound.exact
    assert bound.count == 3**6 * 4**6


def test_a_wide_range_with_dependents_exceeds_the_step_limit():
    specs = {"n": {"int": [1, 10**9]}, "x": {"choice": [1, 2], "when": {"n": 1}}}
    assert measure(parse(specs)) == SpaceSize(2 * 10**9, exact=False)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (SpaceSize(1), "1 architecture (exact)"),
        (SpaceSize(1674), "1,674 architectures (exact)"),
        (SpaceSize(1_234_567_890), "1.2e9 architectures (exact)"),
        (SpaceSize(10**400, exact=False), "at most 1.0e400 architectures"),
    ],
)
def test_sizes_as_text(size, text):
    assert str(size) == text
