import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.spaces import Choice, IntRange
from nas_distill.utils.errors import SpaceError


@given(low=st.integers(-50, 50), steps=st.integers(0, 20), step=st.integers(1, 9))
def test_a_range_equals_the_choice_of_its_values(low, steps, step):
    domain = IntRange(low, low + steps * step, step)
    choice = Choice(domain.values)
    assert choice.ordered
    assert (choice.low, choice.high) == (domain.low, domain.high)
    assert choice.step == (step if steps else 1)
    assert len(domain) == len(choice) == steps + 1
    assert [domain.at(index) for index in range(len(domain))] == list(choice.values)
    for value in range(low - 2, low + steps * step + 3):
        if value in domain.values:
            assert domain.match(float(value)) == value
            assert type(domain.match(float(value))) is int
        else:
            with pytest.raises(SpaceError):
                domain.match(value)


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ([8, 16, 24], True),
        ([2, 1], True),
        ([5], True),
        ([1, 2, 4], False),
        ([0.5, 1.0], False),
        ([False, True], False),
        (["a", "b"], False),
        ([None, 8], False),
    ],
)
def test_integers_with_a_constant_step_are_ordered(values, ordered):
    assert Choice(tuple(values)).ordered is ordered


def test_a_choice_keeps_its_order_and_has_bounds():
    choice = Choice((2, 1))
    assert choice.at(0) == 2
    assert (choice.low, choice.high, choice.step) == (1, 2, 1)


@pytest.mark.parametrize(
    ("own", "given", "result"),
    [
        (8, 8.0, 8),
        (8, np.int64(8), 8),
        (0.5, np.float64(0.5), 0.5),
        (1.0, 1, 1.0),
        (True, True, True),
        (None, None, None),
    ],
)
def test_a_match_has_the_type_of_the_choice(own, given, result):
    matched = Choice((own, "other")).match(given)
    assert matched == result
    assert type(matched) is type(result)


@pytest.mark.parametrize("given", [True, "1", 1.5, None, [1], {"a": 1}])
def test_booleans_and_text_do_not_match_a_number(given):
    for domain in (Choice((1, 2)), IntRange(1, 2)):
        with pytest.raises(SpaceError, match="1"):
            domain.match(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "at least one"),
        ((1, 1.0), "twice"),
        (("a", "b", "a"), "'a' is given twice"),
        (([1],), "must be numbers, strings"),
        ((float("nan"),), "finite"),
    ],
)
def test_invalid_choices_are_refused(values, message):
    with pytest.raises(SpaceError, match=message):
        Choice(values)


def test_a_choice_can_have_a_boolean_and_an_equal_number():
    choice = Choice((True, 1))
    assert choice.match(True) is True
    assert choice.match(1.0) == 1
    assert choice.match(1.0) is not True


@pytest.mark.parametrize(
    ("low", "high", "step", "message"),
    [
        (3, 1, 1, "empty"),
        (1, 4, 2, "do not lead to 4"),
        (1, 4, 0, "at least 1"),
        (1, 4, -1, "at least 1"),
        (1.5, 4, 1, "must be an integer"),
        (True, 4, 1, "must be an integer"),
        (1, "4", 1, "must be an integer"),
    ],
)
def test_invalid_ranges_are_refused(low, high, step, message):
    with pytest.raises(SpaceError, match=message):
        IntRange(low, high, step)
