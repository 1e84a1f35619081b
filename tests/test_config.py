from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from nas_distill.config import (
    DataConfig,
    FinalConfig,
    SearchFile,
    TeachFile,
    TrainedSection,
    TrainingConfig,
    dump_yaml,
    load_search_file,
    load_teach_file,
    parse,
    read_yaml,
)
from nas_distill.spaces import load_space
from nas_distill.utils.errors import ConfigError, SpaceError

BASE = {"data": "digits", "teacher": {"builder": "a.b:c", "weights": "w.pt"}, "space": "mbconv"}


def search_file(**sections):
    return parse(SearchFile, {**BASE, **sections}, source="search.yaml")


def refused(**sections):
    with pytest.raises(ConfigError) as caught:
        search_file(**sections)
    message = str(caught.value)
    assert message.startswith("search.yaml: ")
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message.removeprefix("search.yaml: ")


# Misspelt keys.

EVERY_SECTION = [
    (("serch",), "search"),
    (("data", "rot"), "root"),
    (("data", "views", "padd"), "pad"),
    (("teacher", "wieghts"), "weights"),
    (("search", "trails"), "trials"),
    (("search", "pruning", "margn"), "margin"),
    (("search", "scalar", "taget"), "target"),
    (("score", "epoch"), "epochs"),
    (("score", "rung"), "rungs"),
    (("score", "optimizer", "momentun"), "momentum"),
    (("final", "basline"), "baseline"),
    (("final", "optimizer", "weight_deacy"), "weight_decay"),
    (("latency", "thread"), "threads"),
]


@pytest.mark.parametrize(("place", "near"), EVERY_SECTION, ids=[".".join(place) for place, _ in EVERY_SECTION])
def test_a_misspelt_key_suggests_a_similar_one_at_each_level(place, near):
    content = dict(BASE, data={"name": "digits"})
    inner = content
    for part in place[:-1]:
        inner[part] = dict(inner.get(part, {}))
        inner = inner[part]
    inner[place[-1]] = 1
    assert refused(**content) == f"unknown key '{'.'.join(place)}'; did you mean '{near}'?"


def test_an_unknown_key_lists_the_known_ones():
    message = refused(latency={"zzz": 1})
    assert message == "unknown key 'latency.zzz'; known: batch, calibrate, repeats, runtime, threads."


# Wrong values.

WRONG = [
    ({"search": {"trials": "many"}}, "'search.trials' must be a whole number (given: 'many')."),
    ({"search": {"trials": 2.5}}, "'search.trials' must be a whole number (given: 2.5)."),
    ({"search": {"trials": 0}}, "'search.trials' must be greater than or equal to 1 (given: 0)."),
    ({"search": {"trials": True}}, "'search.trials': must not be yes (given: True)."),
    ({"score": {"epochs": False}}, "'score.epochs': must not be no (given: False)."),
    ({"budget": {"flops": True}}, "'budget': the amount of 'flops' must not be yes."),
    ({"search": {"sampler": 3}}, "'search.sampler' must be a mapping of keys to values (given: 3)."),
    ({"search": {"sampler": {"name": 3}}}, "'search.sampler.name' must be text (given: 3)."),
    ({"search": {"costs": "flops"}}, "'search.costs' must be a list (given: 'flops')."),
    ({"search": {"costs": []}}, "'search.costs': name at least one cost objective"),
    ({"search": {"costs": ["flops", "flops"]}}, "'search.costs': a cost is named twice"),
    ({"search": {"pruning": {"margin": "some"}}}, "'search.pruning.margin' must be a number from 0, or auto"),
    ({"search": {"pruning": {"margin": -0.1}}}, "'search.pruning.margin' must be a number from 0, or auto"),
    ({"search": {"pruning": {"probe_seeds": 1}}}, "'search.pruning.probe_seeds' must be greater than or equal to 2"),
    ({"search": None}, "'search' must be a mapping of keys to values (given: nothing)."),
    ({"search": [1]}, "'search' must be a mapping of keys to values (given: [1])."),
    ({"data": 5}, "'data' must be a mapping of keys to values (given: 5)."),
    ({"data": {"name": "digits", "val": 1.0}}, "'data.val' must be less than 1 (given: 1.0)."),
    ({"data": {"name": "digits", "views": {"count": 0}}}, "'data.views.count' must be greater than or equal to 1"),
    ({"data": {"name": "digits", "views": {"flip": "perhaps"}}}, "'data.views.flip' must be true or false"),
    ({"data": {}}, "'data.name' is missing."),
    ({"data": {"name": "digits", "views": {"pad": "wide"}}}, "'data.views.pad' must be a whole number from 0"),
    ({"data": {"name": "digits", "views": {"pad": [1, -1]}}}, "'data.views.pad"),
    ({"data": {"name": "digits", "mean": 0.5}}, "'data': give both 'mean' and 'std', or neither."),
    ({"teacher": {}}, "'teacher': give either 'name' (a shipped teacher) or 'builder' with 'weights'."),
    ({"teacher": {"name": "a", "builder": "b:c"}}, "'teacher': give either 'name'"),
    ({"teacher": {"name": "a", "weights": "w"}}, "'teacher': a shipped teacher takes neither 'weights'"),
    ({"space": 5}, "'space' must be a space's name, a file, or a mapping with builder and parameters (given: 5)."),
    ({"space": {1: [2]}}, "'space' must be a space's name, a file, or a mapping with builder and parameters"),
    ({"budget": {"flops": None}}, "'budget.flops' must be an amount such as 2M, 512KiB or 50%, a range"),
    ({"budget": ["2M"]}, "'budget' must be a mapping of keys to values (given: ['2M'])."),
    ({"score": {"rungs": [0.5, 0.2, 1]}}, "'score.rungs': rungs must rise from 0 or above to exactly 1, or be [0]"),
    ({"score": {"rungs": [-0.1, 1]}}, "'score.rungs': rungs must rise"),
    ({"score": {"rungs": [0.5]}}, "'score.rungs': rungs must rise"),
    ({"score": {"rungs": []}}, "'score.rungs': rungs must rise"),
    ({"score": {"rungs": [0, 0.5]}}, "'score.rungs': rungs must rise"),
    ({"score": {"loss": {"soft": 0, "hard": 0}}}, "'score.loss': must be a list of terms"),
    ({"score": {"epochs": float("inf")}}, "'score.epochs' must be a finite number (given: inf)."),
    ({"score": {"epochs": float("nan")}}, "'score.epochs' must be"),
    ({"final": {"optimizer": {"lr": 0}}}, "'final.optimizer.lr' must be greater than 0 (given: 0)."),
    ({"final": {"warmup": 1}}, "'final.warmup' must be less than 1 (given: 1)."),
    ({True: 1}, "the key True is not text; write it in quotes, or choose another key."),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "message"), WRONG, ids=[message for _, message in WRONG])
def test_an_invalid_value_is_reported_with_field_and_requirement(sections, message):
    with pytest.raises(ConfigError) as caught:
        parse(SearchFile, {**BASE, **sections}, source="search.yaml")
    assert str(caught.value).startswith(f"search.yaml: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["data", "teacher", "space"])
def test_a_missing_required_key_is_named(key):
    with pytest.raises(ConfigError, match=f"^search.yaml: '{key}' is missing"):
        parse(SearchFile, {name: value for name, value in BASE.items() if name != key}, source="search.yaml")


def test_an_unknown_key_is_reported_before_an_invalid_value():
    assert refused(search={"trials": "many", "workrs": 2}).startswith("unknown key 'search.workrs'")


# Right values.


def test_the_short_forms():
    config = search_file(teacher="fashion", budget={"flops": "50%", "params": 60000, "latency_ms": [0.1, "1ms"]})
    assert config.data == DataConfig(name="digits")
    assert config.teacher.name == "fashion"
    assert config.budget == {"flops": "50%", "params": 60000, "latency_ms": [0.1, "1ms"]}


def test_numbers_may_be_written_as_yaml_reads_them_wrongly():
    # YAML 1.1 takes 5e-4 for text.
    assert yaml.safe_load("5e-4") == "5e-4"
    assert search_file(score={"optimizer": {"weight_decay": "5e-4"}}).score.training.optimizer.weight_decay == 5e-4


def test_the_defaults_are_those_of_the_design():
    config = search_file()
    assert config.score.rungs == (1 / 3, 1.0)
    assert config.score.training.epochs < config.final.training.epochs
    assert [(term.name, term.weight, term.options) for term in config.score.training.loss] == [
        ("cross_entropy", 0.1, {}),
        ("kd", 0.9, {"temperature": 4.0}),
    ]
    assert (config.search.sampler.name, config.search.backend, config.search.objectives) == (
        "known_cost",
        "auto",
        ("flops",),
    )
    assert (config.search.pruning.rule, config.search.pruning.min_reports) == ("dominance", 1)
    assert config.search.threads == 1
    assert config.final.baseline
    assert config.teacher.signal == "store"
    assert config.budget == {}


def test_a_configuration_cannot_be_changed():
    config = search_file()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        config.score.training.epochs = 3


@pytest.mark.parametrize("section", ["score", "final"])
def test_a_section_holds_its_training_and_writes_its_keys_flat(section):
    found = getattr(search_file(**{section: {"ema": 0.0}}), section)
    assert type(found.training) is TrainingConfig
    assert found.training.epochs == type(found)().training.epochs != TrainingConfig().epochs
    assert {"epochs", "ema"} < set(found.model_dump()) > {"loss"}
    assert "training" not in found.model_dump()
    assert found.model_dump(exclude_unset=True) == {"ema": 0.0}
    assert type(found).model_validate(found.model_dump()) == found
    assert type(found)(training=TrainingConfig(epochs=7)).model_dump()["epochs"] == 7


def test_training_is_not_a_key_of_a_search_file():
    with pytest.raises(ConfigError, match=r"unknown key 'score\.training'"):
        parse(SearchFile, {**BASE, "score": {"training": {"epochs": 2}}}, source="x")


# Files.


def write(tmp_path, text):
    path = tmp_path / "search.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def keys_of(model):
    """Every key of a model and of the sections in it."""
    found = {
        name: keys_of(getattr(model, name)) if isinstance(getattr(model, name), BaseModel) else None
        for name in type(model).model_fields
    }
    return found.pop("training") | found if isinstance(model, TrainedSection) else found


def keys_in(content, shape):
    return {name: keys_in(content[name], inner) if inner else None for name, inner in shape.items()}


def test_written_defaults_are_read_back_equal(tmp_path):
    config = search_file(data={"name": "digits", "views": {}}, search={"scalar": {"cost": "flops", "target": "50%"}})
    text = dump_yaml(config)
    assert keys_in(yaml.safe_load(text), keys_of(config)) == keys_of(config)
    assert load_search_file(write(tmp_path, text)) == config
    assert dump_yaml(load_search_file(write(tmp_path, text))) == text


amounts = st.one_of(
    st.floats(1e-9, 1e12),
    st.integers(1, 10**12),
    st.sampled_from(["2M", "512KiB", "50%", "1e6", "0.5", "0x10", "1_000", "yes", "~", "2024-01-01", "é", "a: b #c"]),
)
# PyYAML itself does not bring back the control characters that end a line.
words = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(-(2**40), 2**40),
    epochs=st.floats(1e-6, 1e6),
    budget=st.dictionaries(
        st.sampled_from(["flops", "params", "latency_ms"]),
        st.one_of(amounts, st.lists(amounts, min_size=2, max_size=2), st.dictionaries(st.just("max"), amounts)),
    ),
    arguments=st.dictionaries(words, trees, max_size=3),
    name=st.one_of(st.none(), words),
)
def test_written_files_are_read_back_equal(tmp_path_factory, seed, epochs, budget, arguments, name):
    config = search_file(
        seed=seed,
        name=name,
        budget=budget,
        score={"epochs": epochs},
        data={"name": "a:b", "arguments": arguments},
        space={"parameters": {"width": [8, 16]}, "arguments": arguments},
    )
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_search_file(path) == config


def test_a_teach_file(tmp_path):
    path = write(tmp_path, "data: digits\nbuilder: a:b\noutput: here\ntraining: {epochs: 3}\n")
    config = load_teach_file(path)
    assert (config.data.name, config.training.epochs, config.threads) == ("digits", 3.0, 1)
    assert load_teach_file(write(tmp_path, dump_yaml(config))) == config
    with pytest.raises(ConfigError, match=r"search\.yaml: unknown key 'ouput'; did you mean 'output'"):
        load_teach_file(write(tmp_path, "data: digits\nbuilder: a:b\nouput: here\n"))


def test_the_shipped_files_are_valid():
    for path in Path(__file__).parents[1].glob("runs/*.yaml"):
        (load_teach_file if "builder" in read_yaml(path) else load_search_file)(path)


BROKEN = [
    ("a: 1\nb: [1, 2\n", "at line 3, column 1"),
    ("a: 1\n\tb: 2\n", "at line 2, column 1: found character '\\t'"),
    ("a: 1\nb: 2\na: 3\n", "at line 3, column 1: the key 'a' is given twice"),
    ("search:\n  trials: 1\n  trials: 2\n", "at line 3, column 3: the key 'trials' is given twice"),
    (
        "a: !!python/object/apply:os.system ['touch was_run']\n",
        "at line 1, column 4: could not determine",
    ),
    ("a: \x01\n", ": ReaderError: unacceptable character"),
    ("{[1]: 2}\n", "at line 1, column 2: a key must be text"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_invalid_yaml_is_reported_with_its_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_search_file(write(tmp_path, text))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'search.yaml'} is not valid YAML")
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "was_run").exists()


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
MERGED = LAUGHS.replace("[x, x, x, x, x, x, x, x, x]", "{x: 1}").replace("[", "{<<: [").replace("]", "]}")
HOSTILE = [
    ("a: " + "[" * 500 + "]" * 500, "nested more than"),
    ("".join(f"{' ' * level}a:\n" for level in range(500)), "nested more than"),
    ("a: &a [*a]", "the alias 'a' contains itself"),
    ("a: &a {<<: *a}", "the alias 'a' contains itself"),
    (LAUGHS, "aliases repeat too much"),
    (MERGED, "aliases repeat too much"),
    ("a: !!int ''", "not a valid int"),
    ("a: !!bool maybe", "not a valid bool"),
    ("a: !!float x", "not a valid float"),
    ("a: " + "9" * 5000, "more than 100 digits"),
    ("a: 1" + ":1" * 5000, "more than 100 digits"),
    ("a: !!binary gA==", "could not determine a constructor"),
    ("a: !!set {a, b}", "could not determine a constructor"),
    ('a: "\\ud800"', "invalid Unicode"),
    ("{1: a, 1.0: b}", "the key '1.0' is given twice"),
    ("{yes: a, on: b}", "the key 'on' is given twice"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[f"{message}-{text[:12]}" for text, message in HOSTILE])
@pytest.mark.parametrize("kind", ["search", "space"])
def test_hostile_yaml_is_refused(tmp_path, text, message, kind):
    read, raised = (load_search_file, ConfigError) if kind == "search" else (load_space, SpaceError)
    with pytest.raises(raised) as caught:
        read(write(tmp_path, text))
    assert message in str(caught.value)
    assert "line" in str(caught.value)


def test_a_huge_file_is_not_read(tmp_path):
    with pytest.raises(ConfigError, match="has 400,003 bytes"):
        load_search_file(write(tmp_path, "a: " + "x" * 400_000))


def test_a_value_that_looks_like_a_date_is_text(tmp_path):
    assert read_yaml(write(tmp_path, "a: [2024-01-01, 2024-13-45]")) == {"a": ["2024-01-01", "2024-13-45"]}


def test_aliases_are_resolved(tmp_path):
    assert read_yaml(write(tmp_path, "a: &a [1, 2]\nb: [*a, *a]")) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


@pytest.mark.parametrize("key", ["int", "float", "str", "bool", "list[int]"])
def test_a_key_with_the_name_of_a_type_is_named(key):
    assert refused(score={key: 3}).startswith(f"unknown key 'score.{key}'")


def test_an_entry_of_a_list_of_sections_is_named():
    assert "unknown key 'teacher.others.0.wieghts'; did you mean 'weights'?" in refused(
        teacher={"name": "a", "others": [{"wieghts": "b"}]}
    )


@pytest.mark.parametrize("place", [("name",), ("data", "root"), ("teacher", "store"), ("space",), ("calibration",)])
def test_a_nul_is_refused(place):
    content = dict(BASE, data={"name": "digits"}, teacher={"name": "t"})
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = "a\0b"
    assert "must not contain a NUL character" in refused(**content)


def test_merged_keys_may_be_given_again(tmp_path):
    path = write(tmp_path, "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n")
    assert read_yaml(path)["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("text", ["", "- 1\n", "hello\n", "# nothing but a remark\n"])
def test_a_file_without_keys(tmp_path, text):
    with pytest.raises(ConfigError, match=r"search\.yaml holds no keys; 'nas-distill init' writes"):
        load_search_file(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist\.$"):
        load_search_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(IsADirectoryError"):
        load_search_file(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml cannot be read \(UnicodeDecodeError"):
        load_search_file(tmp_path / "binary.yaml")


def test_a_single_section_is_checked():
    assert parse(TrainingConfig, {"epochs": 2}, source="x").epochs == 2
    assert parse(FinalConfig, {}, source="x").count >= 1
    with pytest.raises(ConfigError, match=r"^x: unknown key 'epoch'"):
        parse(TeachFile, {"data": "digits", "builder": "a:b", "output": "c", "epoch": 2}, source="x")
