import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.spaces import Architecture
from nas_distill.utils.errors import SpaceError

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
)
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(max_size=3), nested, max_size=4)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(inner) for key, inner in reversed(value.items())}
    return [reversed_keys(inner) for inner in value] if isinstance(value, list) else value


@given(mappings)
def test_the_order_of_keys_is_not_significant(values):
    one, other = Architecture(values), Architecture(reversed_keys(values))
    assert one == other
    assert one.hash == other.hash
    assert hash(one) == hash(other)


@given(mappings)
def test_json_and_pickle_round_trips(values):
    architecture = Architecture(values)
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert Architecture.from_json(json.dumps(architecture.to_dict(), indent=1)) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    assert architecture.to_dict() == values


def test_the_hash_is_stable_and_has_sixteen_digits():
    assert Architecture({"width": 8, "blocks": [{"kernel": 3}]}).hash == "24a26e4659eb3e7e"


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0, False), (1, "1"), (0, None), ([], {})])
def test_values_of_different_types_are_different(one, other):
    assert Architecture({"x": one}) != Architecture({"x": other})
    assert Architecture({"x": one}).hash != Architecture({"x": other}).hash


def test_numpy_scalars_and_tuples_are_converted():
    given = {"a": np.int64(3), "b": (np.float32(0.5), np.bool_(True)), "c": -0.0}
    assert Architecture(given) == Architecture({"a": 3, "b": [0.5, True], "c": 0.0})


def test_returned_values_are_copies():
    architecture = Architecture({"stages": [{"depth": 1}]})
    architecture.values["stages"][0]["depth"] = 2
    architecture.to_dict()["stages"].clear()
    assert architecture == Architecture({"stages": [{"depth": 1}]})
    with pytest.raises(AttributeError):
        architecture.values = {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": [{"b": float("nan")}]}, "'a.0.b' is nan"),
        ({"a": float("inf")}, "'a' is inf"),
        ({"a": {"b": object()}}, "'a.b' is of type object"),
        ({"a": {3: 1}}, "key 3 of parameter 'a'"),
        ([1], "mapping"),
    ],
)
def test_invalid_values_are_named(values, message):
    with pytest.raises(SpaceError, match=message):
        Architecture(values)


@pytest.mark.parametrize("text", ["{", "[1]", "3", '{"a": NaN}'])
def test_invalid_json_is_refused(text):
    with pytest.raises(SpaceError):
        Architecture.from_json(text)
