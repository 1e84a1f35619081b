import pytest

from nas_distill.spaces.notation import parse
from nas_distill.spaces.tree import check, draw
from nas_distill.utils.errors import SpaceError

SPACE = parse(
    {
        "depth": {"int": [1, 3]},
        "act": ["relu", "swish"],
        "beta": {"choice": [0.5, 1.0], "when": {"act": "swish"}},
        "blocks": {
            "repeat": "depth",
            "of": {"kernel": [3, 5], "gate": {"choice": [True, False], "when": {"kernel": 5}}},
        },
    }
)
GOOD = {"depth": 2, "act": "swish", "beta": 1.0, "blocks": [{"kernel": 3}, {"kernel": 5, "gate": False}]}


def changed(**changes):
    values = {**GOOD, **changes}
    return {name: value for name, value in values.items() if value is not ...}


def test_values_are_converted_to_the_type_of_their_domain():
    given = changed(depth=2.0, beta=1, blocks=({"kernel": 3.0}, {"gate": False, "kernel": 5}))
    checked = check(SPACE, given)
    assert checked == GOOD
    assert type(checked["depth"]) is int
    assert type(checked["beta"]) is float
    assert type(checked["blocks"][0]["kernel"]) is int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "an architecture is 3, but must map these names to values: depth, act, beta, blocks"),
        (changed(dept=1, depth=...), "unknown parameter 'dept'; did you mean 'depth'"),
        (changed(depth=...), "'depth' is missing; allowed: 1 to 3"),
        (changed(beta=...), "'beta' is missing; allowed: 0.5, 1.0"),
        (changed(act="relu"), "'beta' is inactive here: it is active only when act is 'swish'"),
        (changed(depth=4), "'depth': 4 is not an integer of 1 to 3"),
        (changed(depth=1.5), "'depth': 1.5 is not an integer"),
        (changed(depth="2"), "'depth': '2' is not an integer"),
        (changed(depth=None), "'depth': null is not an integer"),
        (changed(depth=True, blocks=[{"kernel": 3}]), "'depth': true is not an integer"),
        (changed(act="swishh"), "'act': 'swishh' is not one of 'relu', 'swish'"),
        (changed(blocks=[{"kernel": 3}]), "'blocks' has 1 entries, but must have 2 here"),
        (changed(blocks={"kernel": 3}), "'blocks' is a dict, but must be a list"),
        (changed(blocks=[{"kernel": 3}, 5]), r"'blocks\.1' is 5, but must map these names to values: kernel, gate"),
        (changed(blocks=[{"kernel": 3}, {"kernel": 4}]), r"'blocks\.1\.kernel': 4 is not one of 3, 5"),
        (changed(blocks=[{"kernel": 3}, {"kernel": 5}]), r"'blocks\.1\.gate' is missing; allowed: true, false"),
        (changed(blocks=[{"kernel": 3, "gate": True}, {"kernel": 3}]), r"'blocks\.0\.gate' is inactive here"),
        (changed(blocks=[{"kernel": 3}, {"kernl": 3}]), r"unknown parameter 'blocks\.1\.kernl'; did you mean 'kernel'"),
    ],
)
def test_invalid_values_are_named_by_path(values, message):
    with pytest.raises(SpaceError, match=message):
        check(SPACE, values)


def test_draw_chooses_active_parameters_in_order_of_declaration():
    asked = []

    def choose(name, domain):
        asked.append(name)
        return domain.at(len(domain) - 1 if name == "depth" else 0)

    values = draw(SPACE, choose)
    assert asked == ["depth", "act", "blocks.0.kernel", "blocks.1.kernel", "blocks.2.kernel"]
    assert values == {"depth": 3, "act": "relu", "blocks": [{"kernel": 3}] * 3}
    assert check(SPACE, values) == values


def test_a_value_outside_its_domain_is_refused():
    with pytest.raises(SpaceError, match="'depth': 7 is not an integer of 1 to 3"):
        draw(SPACE, lambda name, domain: 7)


def test_a_list_with_an_inactive_count_is_inactive():
    space = parse({"on": [False, True], "n": {"int": [1, 2], "when": {"on": True}}, "x": {"repeat": "n", "of": [1, 2]}})
    assert check(space, {"on": False}) == {"on": False}
    with pytest.raises(SpaceError, match="'x' is inactive here: it is active only when 'n' is"):
        check(space, {"on": False, "x": []})


def test_an_inactive_parameter_shadows_an_outer_one():
    inner = {"on": [False, True], "k": {"choice": [1], "when": {"on": True}}, "x": {"choice": [7], "when": {"k": 1}}}
    space = parse({"k": [1, 2], "g": {"repeat": 1, "of": inner}})
    assert check(space, {"k": 1, "g": [{"on": False}]}) == {"k": 1, "g": [{"on": False}]}
    with pytest.raises(SpaceError, match=r"g\.0\.x"):
        check(space, {"k": 1, "g": [{"on": False, "x": 7}]})


def test_a_condition_distinguishes_true_from_one():
    space = parse({"a": [True, 1], "b": {"choice": [5], "when": {"a": 1}}})
    assert check(space, {"a": True}) == {"a": True}
    assert check(space, {"a": 1, "b": 5}) == {"a": 1, "b": 5}
