import json
import sys
import types

import pytest
import torch
from torch import nn

from nas_distill.config import TeacherConfig
from nas_distill.data import load_dataset
from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.predict import predict_logits
from nas_distill.teacher import load_teacher, shipped_teachers
from nas_distill.teacher import teacher as load
from nas_distill.teacher.teacher import build_module, builder_keywords
from nas_distill.teacher.weights import save_weights
from nas_distill.utils.errors import ConfigError, TeacherError
from nas_distill.utils.files import record_ownership


@pytest.fixture
def user(monkeypatch, make_module):
    """A user's module with a builder."""
    module = types.ModuleType("user_teacher")
    monkeypatch.setitem(sys.modules, "user_teacher", module)

    def build(width, num_classes):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, num_classes)
        )

    module.build = build
    return module


def config(**options):
    return TeacherConfig(**{"builder": "user_teacher:build", "arguments": {"width": 8}, **options})


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_builder_and_a_weights_file_give_the_teacher(tmp_path, user, data, make_teacher, suffix):
    wanted = make_teacher()
    if suffix == ".pt":
        torch.save(wanted.module.state_dict(), tmp_path / "w.pt")
    else:
        save_weights(wanted.module, tmp_path / "w.safetensors")
    teacher = load_teacher(config(weights=f"w{suffix}"), data, [tmp_path])
    assert teacher.fingerprint == wanted.fingerprint
    assert teacher.name == "w"
    teacher.assert_frozen()
    absolute = load_teacher(config(weights=str(tmp_path / f"w{suffix}")), data)
    assert absolute.fingerprint == wanted.fingerprint


def test_a_builder_without_weights_file_draws_the_same_weights_in_every_process(user, data):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load_teacher(config(), data)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert load_teacher(config(), data).fingerprint == first.fingerprint
    assert first.name == "build"


def test_a_builder_gets_the_data_sizes_that_it_accepts(data):
    def both(input_shape, num_classes):
        pass

    def one(num_classes, width=3):
        pass

    assert builder_keywords(both, {}, data) == {"input_shape": (1, 4, 4), "num_classes": 3}
    assert builder_keywords(one, {"width": 1}, data) == {"width": 1, "num_classes": 3}
    assert builder_keywords(lambda: None, {}, data) == {}
    assert builder_keywords(lambda **rest: None, {"a": 1}, data) == {"a": 1, "input_shape": (1, 4, 4), "num_classes": 3}
    kept = builder_keywords(both, {"input_shape": [9, 9], "num_classes": 7}, data)
    assert kept == {"input_shape": (9, 9), "num_classes": 7}


def fail(width):
    raise RuntimeError("no\nluck.")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (fail, r"Teacher builder user_teacher:build failed \(RuntimeError: no luck\)\."),
        (lambda: nn.Identity(), r"failed \(TypeError: .*unexpected keyword argument 'width'"),
        (lambda width: "model", r"returned a str, not a torch\.nn\.Module"),
        (7, r"failed \(TypeError: 'int' object is not callable\)"),
        (lambda width: nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), "has 5 classes, but data 'toy' has 3"),
    ],
)
def test_a_builder_without_a_teacher_is_refused(user, data, build, message):
    user.build = build
    with pytest.raises(TeacherError, match=message):
        load_teacher(config(), data)


def test_a_misspelt_builder_suggests_the_right_name(user, data):
    with pytest.raises(ConfigError, match="'user_teacher' has no 'biuld'; did you mean 'build'"):
        build_module("user_teacher:biuld", {}, data)


def test_weights_that_do_not_fit_name_the_file(tmp_path, user, data, make_module):
    save_weights(make_module(width=9), tmp_path / "w.safetensors")
    with pytest.raises(TeacherError, match=r"w\.safetensors .*'1.weight' is \(9, 16\)"):
        load_teacher(config(weights="w.safetensors"), data, [tmp_path])
    with pytest.raises(TeacherError, match=r"Weights none\.pt do not exist"):
        load_teacher(config(weights="none.pt"), data, [tmp_path])


# Folders written by `nas-distill teach`, and shipped teachers.


def write_folder(folder, module, **changes):
    folder.mkdir(parents=True)
    save_weights(module, folder / "model.safetensors")
    description = {"builder": "user_teacher:build", "arguments": {"width": 8, "num_classes": 3}, **changes}
    (folder / "teacher.json").write_text(json.dumps(description))
    record_ownership(folder, (folder / "teacher.json").read_bytes())


def test_a_folder_is_found_by_name_or_path(tmp_path, user, data, make_teacher, monkeypatch):
    wanted = make_teacher()
    write_folder(tmp_path / "runs" / "mine", wanted.module)
    for name, paths in (("mine", [tmp_path / "runs"]), (str(tmp_path / "runs" / "mine"), [])):
        teacher = load_teacher(TeacherConfig(name=name), data, paths)
        assert (teacher.fingerprint, teacher.name) == (wanted.fingerprint, name)
    monkeypatch.chdir(tmp_path)
    assert load_teacher(TeacherConfig(name="runs/mine"), data).fingerprint == wanted.fingerprint


def test_a_teacher_with_other_classes_is_refused(tmp_path, user, make_data, make_module):
    write_folder(tmp_path / "mine", make_module())
    with pytest.raises(TeacherError, match="Teacher 'mine' has 3 classes, but data 'toy' has 5"):
        load_teacher(TeacherConfig(name="mine"), make_data(classes=5), [tmp_path])


def test_a_teacher_trained_on_another_sample_shape_is_refused_even_if_it_runs(tmp_path, user, data, make_data):
    user.build = lambda num_classes: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, num_classes))
    for name, known in (("new", {"input_shape": [1, 4, 4], "arguments": {}}), ("old", {"arguments": {}})):
        write_folder(tmp_path / name, user.build(3), **known)
        load_teacher(TeacherConfig(name=name), data, [tmp_path])
    with pytest.raises(TeacherError, match=r"samples of shape \(1, 4, 4\), .*data 'toy'"):
        load_teacher(TeacherConfig(name="new"), make_data(shape=(1, 6, 6)), [tmp_path])


@pytest.mark.parametrize("name", shipped_teachers())
def test_shipped_teachers_load_and_have_the_quality_on_their_cards(name):
    described = json.loads((load._SHIPPED / name / load.DESCRIPTION).read_text())
    data = load_dataset(described["data"])
    teacher = load_teacher(TeacherConfig(name=name), data)
    found = accuracy(predict_logits(teacher.module, data.inputs("val")), data.labels("val"))
    assert found == pytest.approx(described["validation_quality"], abs=2 / len(data.val))
    assert f"{described['quality']:.2%}" in (load._SHIPPED / name / "card.md").read_text()
    assert described["normalisation"] == data.normalisation()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"builder": "a:b"}', '{"builder": 5, "arguments": {}}', '{"builder": "a:b", "arguments": 3}'],
)
def test_a_damaged_description_is_refused(tmp_path, data, text):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "teacher.json").write_text(text)
    with pytest.raises(TeacherError, match=r"mine/teacher\.json does not describe a teacher"):
        load_teacher(TeacherConfig(name="mine"), data, [tmp_path])


def test_an_unknown_teacher_is_refused(tmp_path, data):
    with pytest.raises(TeacherError, match="'nobody'"):
        load_teacher(TeacherConfig(name="nobody"), data, [tmp_path])


def test_shipped_teachers_are_listed(monkeypatch, tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "teacher.json").write_text("{}")
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(load, "_SHIPPED", tmp_path)
    assert shipped_teachers() == ["good"]
    monkeypatch.setattr(load, "_SHIPPED", tmp_path / "nothing")
    assert shipped_teachers() == []


def test_the_builder_of_a_strangers_teacher_is_not_called(tmp_path, user, data, make_teacher, monkeypatch):
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    write_folder(tmp_path / "mine", make_teacher().module)
    (tmp_path / "mine").rename(tmp_path / "sent")  # in another place the folder is not the user's own
    called = []
    user.build = lambda **keywords: called.append(keywords)
    with pytest.raises(TeacherError, match=r"teacher\.json names a builder whose code would run.*'weights: ") as error:
        load_teacher(TeacherConfig(name="sent"), data, [tmp_path])
    assert "\n" not in str(error.value)
    assert not called
