import json
from collections.abc import Mapping

import numpy as np
import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas_distill.spaces import Architecture, IntRange, SearchSpace
from nas_distill.utils.errors import ConfigError, SpaceError

SPECS = {
    "depth": {"int": [1, 3]},
    "act": ["relu", "swish"],
    "blocks": {
        "repeat": "depth",
        "of": {"kernel": [3, 5], "gate": {"choice": [True, False], "when": {"act": "swish"}}},
    },
}


def builder(**parameters):
    return None


def space_of(specs):
    return SearchSpace.from_dict(specs, builder=builder)


@st.composite
def random_specs(draw, outer=(), level=0):
    """Small random specifications; ``outer`` are the parameters of enclosing scopes, as (name, values)."""
    specs, visible = {}, list(outer)
    for index in range(draw(st.integers(1, 3 if level == 0 else 2))):
        name = f"{'pqr'[level]}{index}"
        kinds = ["choice", "int"] if level == 2 else ["choice", "int", "repeat", "each"]
        kind = draw(st.sampled_from(kinds))
        if kind == "choice":
            pool = draw(st.sampled_from([[8, 16, 24], ["a", "b"], [0.5, 1.5], [True, False], [None, "x"], [2, 1, 0]]))
            values = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3, unique=True))
            spec = {"choice": values}
        elif kind == "int":
            low, step, more = draw(st.integers(0, 2)), draw(st.integers(1, 2)), draw(st.integers(0, 1))
            values = list(range(low, low + more * step + 1, step))
            spec = {"int": [low, low + more * step], "step": step}
        else:
            values = None
            counts = [
                one for one, options in visible if all(type(value) is int and 0 <= value <= 3 for value in options)
            ]
            if kind == "repeat":
                count = draw(st.sampled_from(counts)) if counts and draw(st.booleans()) else draw(st.integers(1, 2))
                inner = st.just([1, 2]) | random_specs(outer=tuple(visible), level=level + 1)
                spec = {"repeat": count, "of": draw(inner)}
            else:
                items = st.lists(random_specs(outer=tuple(visible), level=level + 1), min_size=1, max_size=2)
                spec = {"each": draw(items)}
        if visible and draw(st.booleans()):
            other, options = draw(st.sampled_from(visible))
            spec["when"] = {other: draw(st.lists(st.sampled_from(options), min_size=1, max_size=2, unique_by=repr))}
        specs[name] = spec
        if values is not None:
            visible.append((name, values))
    return specs


def enumerate_specs(specs, outer):
    """All architectures, enumerated from the notation: a slow reference for the package."""
    partial = [({}, dict(outer))]
    for name, spec in specs.items():
        grown = []
        for values, seen in partial:
            here = {**seen, name: "inactive"}
            holds = all(
                any(seen[other] == option and type(seen[other]) is type(option) for option in options)
                for other, options in spec.get("when", {}).items()
            )
            count = spec.get("repeat")
            if not holds or (isinstance(count, str) and seen[count] == "inactive"):
                grown.append((values, here))
            elif "choice" in spec or "int" in spec:
                low, high = spec.get("int", (0, -1))
                options = spec.get("choice") or list(range(low, high + 1, spec.get("step", 1)))
                grown += [({**values, name: option}, {**seen, name: option}) for option in options]
            else:
                entries = spec.get("each") or [spec["of"]] * (seen[count] if isinstance(count, str) else count)
                lists = [[]]
                for entry in entries:
                    each = enumerate_specs(entry, here) if isinstance(entry, Mapping) else entry
                    lists = [[*given, one] for given in lists for one in each]
                    assume(len(lists) < 3000)
                grown += [({**values, name: one}, here) for one in lists]
            assume(len(grown) < 3000)
        partial = grown
    return [values for values, _ in partial]


@settings(max_examples=150, deadline=None)
@given(specs=random_specs(), seed=st.integers(0, 2**32))
def test_random_spaces_equal_brute_force_enumeration(specs, seed):
    space = space_of(specs)
    everything = {Architecture(values) for values in enumerate_specs(specs, {})}
    assert space.size().exact
    assert space.size().count == len(everything)
    rng = np.random.default_rng(seed)
    drawn = {space.sample(rng) for _ in range(5)} | {space.smallest(), space.largest(), *space.spread(3, rng)}
    assert drawn <= everything


@settings(max_examples=100, deadline=None)
@given(specs=random_specs(), seed=st.integers(0, 2**32))
def test_sampled_architectures_are_valid_and_round_trip(specs, seed):
    space = space_of(specs)
    architecture = space.sample(np.random.default_rng(seed))
    flat = space.flatten(architecture)
    assert space.validate(architecture) == architecture
    assert space.validate(json.loads(architecture.to_json())) == architecture
    assert space.unflatten(flat) == architecture
    assert space.unflatten(dict(reversed(flat.items()))).hash == architecture.hash
    assert space_of(space.to_dict()["parameters"]).validate(architecture) == architecture


@settings(max_examples=60, deadline=None)
@given(specs=random_specs(), seed=st.integers(0, 2**32))
def test_architectures_of_optuna_and_of_users_are_equal(specs, seed):
    space = space_of(specs)
    architecture = space.sample(np.random.default_rng(seed))
    trial = optuna.trial.FixedTrial(space.flatten(architecture))

    def ask(name, domain):
        if domain.ordered:
            return trial.suggest_int(name, domain.low, domain.high, step=domain.step)
        return trial.suggest_categorical(name, domain.values)

    assert space.draw(ask) == architecture
    assert list(trial.params) == list(space.flatten(architecture))


def test_flat_names_come_in_the_order_of_declaration():
    architecture = space_of(SPECS).validate(
        {"blocks": [{"kernel": 3, "gate": True}, {"gate": False, "kernel": 5}], "act": "swish", "depth": 2}
    )
    assert list(space_of(SPECS).flatten(architecture).items()) == [
        ("depth", 2),
        ("act", "swish"),
        ("blocks.0.kernel", 3),
        ("blocks.0.gate", True),
        ("blocks.1.kernel", 5),
        ("blocks.1.gate", False),
    ]


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"depth": 1, "act": "relu"}, r"'blocks\.0\.kernel' is missing; allowed: 3, 5"),
        ({"depth": 1, "act": "relu", "blocks.0.kernel": 4}, r"'blocks\.0\.kernel': 4 is not one of 3, 5"),
        (
            {"depth": 1, "act": "relu", "blocks.0.kernel": 3, "blocks.0.gate": True},
            r"'blocks\.0\.gate' is unknown, or does",
        ),
        ({"depth": 1, "act": "relu", "blocks.0.kernel": 3, "blocks.1.kernel": 3}, r"'blocks\.1\.kernel' is unknown"),
    ],
)
def test_invalid_flat_values_are_refused(flat, message):
    with pytest.raises(SpaceError, match=message):
        space_of(SPECS).unflatten(flat)


def test_an_architecture_of_another_space_is_not_flattened():
    with pytest.raises(SpaceError, match="unknown parameter 'width'"):
        space_of(SPECS).flatten(Architecture({"width": 8}))


def test_sampling_depends_only_on_the_generator():
    space = space_of(SPECS)
    first = [space.sample(np.random.default_rng(7)) for _ in range(3)]
    assert len(set(first)) == 1
    rng = np.random.default_rng(7)
    assert len({space.sample(rng) for _ in range(50)}) > 10


def test_smallest_and_largest_are_the_ends_of_domains():
    space = space_of({"stride": [2, 1], "depth": {"int": [1, 2]}, "widths": {"repeat": "depth", "of": [8, 16]}})
    assert space.smallest().to_dict() == {"stride": 2, "depth": 1, "widths": [8]}
    assert space.largest().to_dict() == {"stride": 1, "depth": 2, "widths": [16, 16]}


def test_spread_returns_distinct_architectures_from_small_to_large():
    space = space_of({name: {"int": [0, 99]} for name in "abcdef"} | {"act": ["x", "y", "z"]})
    spread = space.spread(5, np.random.default_rng(0))
    sums = [sum(value for value in one.to_dict().values() if isinstance(value, int)) for one in spread]
    assert sums == sorted(sums)
    assert sums[0] < 200 < 400 < sums[-1]
    assert len(set(spread)) == 5
    assert spread == space.spread(5, np.random.default_rng(0))
    assert spread != space.spread(5, np.random.default_rng(1))


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (6, 6), (50, 6)])
def test_spread_returns_at_most_the_size_of_the_space(count, expected):
    space = space_of({"width": {"int": [1, 3]}, "act": ["x", "y"]})
    spread = space.spread(count, np.random.default_rng(0))
    assert len(spread) == len(set(spread)) == expected


def test_a_space_round_trips_through_a_dict():
    mapping = {
        "name": "tiny",
        "about": "A tiny space.",
        "builder": "package.module:function",
        "arguments": {"norm": {"kind": "batch"}},
        "parameters": {"depth": {"int": [1, 4]}, "act": ["relu", "swish"]},
    }
    space = SearchSpace.from_dict(mapping)
    assert space.to_dict() == mapping
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again.to_dict() == mapping
    assert again.fingerprint == space.fingerprint
    assert (space.name, space.about, space.builder) == ("tiny", "A tiny space.", "package.module:function")


def test_the_fingerprint_does_not_depend_on_name_and_description():
    def fingerprint(**changes):
        base = {"builder": "a.b:c", "parameters": {"x": [1, 2], "y": [3]}}
        return SearchSpace.from_dict({**base, **changes}).fingerprint

    assert fingerprint() == fingerprint(name="other", about="words") == fingerprint(parameters={"x": (1, 2), "y": [3]})
    different = [
        fingerprint(),
        fingerprint(builder="a.b:d"),
        fingerprint(arguments={"z": 1}),
        fingerprint(parameters={"x": [2, 1], "y": [3]}),
        fingerprint(parameters={"y": [3], "x": [1, 2]}),
        fingerprint(parameters={"x": [1, 2], "y": [3.0]}),
    ]
    assert len(set(different)) == len(different)
    assert len(different[0]) == 64


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"builder": "a.b:c", "paramters": {"x": [1]}}, "space: unknown key 'paramters'; did you mean 'parameters'"),
        ({"bulider": "a.b:c", "parameters": {"x": [1]}}, "unknown key 'bulider'; did you mean 'builder'"),
        ({"parameters": {"x": [1]}}, "'builder' is missing"),
        ({"builder": "a.b:c"}, "'parameters' is missing"),
        ({"builder": "build", "parameters": {"x": [1]}}, "'build', which is not of the form package.module:function"),
        ({"builder": 3, "parameters": {"x": [1]}}, "the builder is a int"),
        ({"builder": "a.b:c", "parameters": {"x": []}, "name": "mine"}, "space 'mine': parameter 'x': a choice needs"),
        ({"builder": "a.b:c", "parameters": {"x": [1]}, "name": 3}, "'name' must be text"),
        ({"builder": "a.b:c", "parameters": {"x": [1]}, "arguments": [1]}, "'arguments' must map"),
        (
            {"builder": "a.b:c", "parameters": {"x": [1]}, "arguments": {"x": 1}},
            "'x' is both a parameter and an argument",
        ),
        ({"builder": "a.b:c", "parameters": {"num_classes": [1]}}, "'num_classes' comes from the data"),
        ({"builder": "a.b:c", "parameters": {"x": [1]}, "arguments": {"input_shape": 1}}, "'input_shape' comes from"),
        ([1], "a space must be a mapping"),
    ],
)
def test_an_invalid_space_is_refused(mapping, message):
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_dict(mapping)


def test_a_builder_that_cannot_be_imported_is_named():
    space = SearchSpace.from_dict({"builder": "no_such_module_here:build", "parameters": {"x": [1]}, "name": "mine"})
    with pytest.raises(ConfigError, match="builder of space 'mine': module 'no_such_module_here' cannot be imported"):
        space.build(space.smallest(), input_shape=(1, 8, 8), num_classes=2)


def test_rows_have_names_values_and_conditions():
    rows = space_of(
        {**SPECS, "stages": {"each": [{"width": IntRange(8, 16, 8)}]}, "ks": {"repeat": 2, "of": [3]}}
    ).describe()
    assert [tuple(row) for row in rows] == [
        ("depth", "integer", "1 to 3", ""),
        ("act", "choice", "'relu', 'swish'", ""),
        ("blocks", "list", "depth entries", ""),
        ("blocks.*.kernel", "choice", "3, 5", ""),
        ("blocks.*.gate", "choice", "true, false", "act is 'swish'"),
        ("stages", "list", "1 entries", ""),
        ("stages.0.width", "integer", "8 to 16 in steps of 8", ""),
        ("ks", "list", "2 entries", ""),
        ("ks.*", "choice", "3", ""),
    ]


def test_every_architecture_is_enumerated_once() -> None:
    space = SearchSpace.from_dict(
        {"act": ["relu", "silu"], "depth": [1, 2, 3], "blocks": {"repeat": "depth", "of": {"kernel": [3, 5]}}},
        builder="builtins:dict",
    )
    every = list(space.every())
    assert len(every) == len(set(every)) == space.size().count == 2 * (2 + 4 + 8)
    assert every[0] == space.smallest()
    assert every[-1] == space.largest()
    drawn = {space.sample(np.random.default_rng(seed)) for seed in range(300)}
    assert drawn <= set(every)
