import json
import sys
import types
from dataclasses import replace

import pytest
import torch
from torch import nn

from nas_distill.config import TeacherConfig, TeachFile
from nas_distill.distill.teach import teach
from nas_distill.evaluate.classification import accuracy
from nas_distill.teacher import load_teacher
from nas_distill.teacher.weights import read_weights
from nas_distill.utils.errors import TeacherError, TrainingError


@pytest.fixture
def user(monkeypatch):
    """A module of the user's own; its builder takes neither the input's shape nor any keyword."""
    module = types.ModuleType("user_teach")
    monkeypatch.setitem(sys.modules, "user_teach", module)

    def build(width, num_classes):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    module.build = build
    return module


@pytest.fixture
def config(user):
    return TeachFile(
        data="digits",
        builder="user_teach:build",
        arguments={"width": 8},
        training={"epochs": 6, "batch_size": 8},
        output="out",
        seed=3,
    )


def changed(config, **values):
    return TeachFile.model_validate({**config.model_dump(), **values})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_teacher_is_trained_written_and_loaded(tmp_path, config, data):
    told = []
    evaluation = teach(config, data, tmp_path / "out", on_epoch=told.append)
    assert names(tmp_path / "out") == ["card.md", "model.safetensors", "teacher.json"]
    assert [progress.epoch for progress in told] == [1, 2, 3, 4, 5, 6]
    assert {progress.epochs for progress in told} == {6}
    teacher = load_teacher(TeacherConfig(name="out"), data, [tmp_path])
    teacher.assert_frozen()
    x, y = data.batch("test", torch.arange(len(data.test)))
    assert evaluation.accuracy == accuracy(teacher.module(x), y)
    assert evaluation.accuracy > 0.8
    assert evaluation.count == len(data.test)
    description = json.loads((tmp_path / "out" / "teacher.json").read_text())
    assert description["arguments"] == {"width": 8, "num_classes": 3}
    assert description["input_shape"] == [1, 6, 6]
    assert description["quality"] == evaluation.accuracy
    assert description["validation_quality"] == told[-1].quality


def test_without_test_data_validation_data_are_looked_at(tmp_path, config, data):
    evaluation = teach(config, replace(data, test=None), tmp_path / "out")
    description = json.loads((tmp_path / "out" / "teacher.json").read_text())
    assert (description["split"], evaluation.count) == ("val", len(data.val))


def test_the_card_says_what_was_done(tmp_path, config, data):
    evaluation = teach(config, data, tmp_path / "out")
    card = (tmp_path / "out" / "card.md").read_text()
    for text in (
        "# Teacher for toy",
        f"{evaluation.accuracy:.2%}",
        "| seed | 3 |",
        "`user_teach:build`",
        "epochs: 6.0",
    ):
        assert text in card
    parameters = 36 * 8 + 8 + 16 + 8 * 3 + 3
    assert f"| parameters | {parameters:,} |" in card


class StopError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_teaching_that_was_stopped_goes_on_and_ends_the_same(tmp_path, config, data, after):
    teach(config, data, tmp_path / "straight")

    def stop(progress):
        if progress.epoch == after:
            raise StopError

    with pytest.raises(StopError):
        teach(config, data, tmp_path / "stopped", on_epoch=stop)
    assert names(tmp_path / "stopped") == ["checkpoint"]
    torch.manual_seed(99)
    told = []
    teach(config, data, tmp_path / "stopped", on_epoch=told.append)
    assert [progress.epoch for progress in told] == list(range(after + 1, 7))
    first, second = (read_weights(tmp_path / name / "model.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_part_of_an_epoch_counts(tmp_path, config, data):
    told = []
    teach(changed(config, training={"epochs": 1.5, "batch_size": 8}), data, tmp_path / "out", on_epoch=told.append)
    assert [(progress.epoch, progress.epochs) for progress in told] == [(1, 2), (2, 2)]


def test_a_finished_teacher_is_not_overwritten(tmp_path, config, data):
    teach(config, data, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(TeacherError, match="finished teacher"):
        teach(changed(config, seed=4), data, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_what_was_begun_with_other_settings_is_not_gone_on_with(tmp_path, config, data):
    def stop(progress):
        raise StopError

    with pytest.raises(StopError):
        teach(config, data, tmp_path / "out", on_epoch=stop)
    with pytest.raises(TrainingError, match="belongs to another training"):
        teach(changed(config, seed=4), data, tmp_path / "out")


def test_a_builder_that_fails(tmp_path, config, data, user):
    user.build = lambda width: 1 / 0
    with pytest.raises(TeacherError, match=r"user_teach:build failed \(ZeroDivisionError"):
        teach(config, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_process_keeps_its_threads_and_its_generator(tmp_path, config, data):
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    teach(changed(config, threads=threads + 1), data, tmp_path / "out")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
