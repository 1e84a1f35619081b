"""Searches on multilabel and regression data, from data to card."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_diabetes
from torch import nn

import nas_distill as nd
from nas_distill.config import SearchFile, TrainingConfig, default_loss, with_default_losses
from nas_distill.data import load_dataset
from nas_distill.distill import Distiller
from nas_distill.evaluate.predict import predict_logits
from nas_distill.export.provenance import read_provenance
from nas_distill.reports.final import result_lines
from nas_distill.runs.folder import RunFolder
from nas_distill.study.interruption import Interruption
from nas_distill.study.pipeline import Pipeline
from nas_distill.study.problem import _check_task, resolve
from nas_distill.tasks import find_task
from nas_distill.teacher import TeacherStore, freeze
from nas_distill.teacher.store_writer import Contents
from nas_distill.utils.errors import ConfigError, TeacherError

QUICK = {
    "backend": "inline",
    "trials": 3,
    "seeds": 2,
    "score": {"epochs": 4, "batch_size": 32},
    "final": {"epochs": 12, "batch_size": 32, "count": 1},
    "latency": {"calibrate": 0, "repeats": 5},
}
SPACE = {"width": [8, 16, 32]}


def build(width, input_shape, num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(int(np.prod(input_shape)), width), nn.ReLU(), nn.Linear(width, num_classes)
    )


def sums():
    """Two targets per sample that a small network can predict."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    y = np.stack([np.abs(x[:, :3]).sum(1) - 2.4, x[:, 3] * 2 - np.abs(x[:, 4])], axis=1)
    return nd.Dataset.from_tensors(x, y, val=0.2, test=0.2, classes=["size", "slope"], name="sums")


def diabetes():
    """The diabetes data: 442 patients, ten measurements, progression in a year (Efron et al., 2004), standardised."""
    bunch = load_diabetes()
    y = (bunch.target - bunch.target.mean()) / bunch.target.std()
    x = (bunch.data / bunch.data.std()).astype(np.float32)
    return nd.Dataset.from_tensors(x, y, task="regression", val=0.2, test=0.2, name="diabetes")


def strokes():
    """Digits with several labels each: odd, above 4, round, in the upper half of all by ink."""
    digits = load_dataset("digits")

    def labels(split):
        ink = split.x.reshape(len(split), -1).mean(1)
        number = split.y
        return np.stack([number % 2, number > 4, np.isin(number, (0, 6, 8, 9)), ink > 78], axis=1).astype(float)

    return nd.Dataset.from_tensors(
        digits.train.x,
        labels(digits.train),
        val=(digits.val.x, labels(digits.val)),
        test=(digits.test.x, labels(digits.test)),
        mean=digits.mean,
        std=digits.std,
        classes=["odd", "large", "round", "bold"],
        name="strokes",
    )


DATA = {"sums": sums, "diabetes": diabetes, "strokes": strokes}


def teacher_of(data, epochs):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build(64, data.input_shape, data.num_classes)
    training = TrainingConfig(epochs=epochs, batch_size=32, optimizer={"lr": 0.05})
    distiller = Distiller(model, data, training, signal=None, seed=0)
    distiller.advance(10**6)
    return distiller.student()


@pytest.fixture(scope="module", params=DATA)
def found(request, tmp_path_factory):
    """A finished search on one of the data sets."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = DATA[request.param]()
        teacher = teacher_of(data, 12)
        given = {"teacher": teacher, "data": data, "builder": build, "space": SPACE, "budget": {"flops": "60%"}}
        run = nd.search(**given, folder=tmp_path_factory.mktemp("tasks") / "run", **QUICK)
        yield SimpleNamespace(run=run, data=data, teacher=teacher, given=given)
    finally:
        torch.set_num_threads(threads)


def test_the_run_knows_its_task_and_takes_its_losses(found):
    assert found.run.task == found.data.task
    assert found.run.config.score.training.loss == found.run.config.final.training.loss == default_loss(found.data.task)
    again = nd.open_run(found.run.folder.path)
    assert again.task == found.data.task
    assert again.config.final.training.loss == default_loss(found.data.task)


def test_scores_are_qualities_of_the_task(found):
    """The student read from its folder has the validation quality of the journal."""
    student = found.run.best().student()
    outputs = predict_logits(student.load(), [found.data.batch("val", torch.arange(len(found.data.val)))[0]])
    (chosen,) = [entry for entry in found.run.finalists() if entry.chosen]
    assert find_task(found.data.task).quality(outputs, found.data.labels("val")) == pytest.approx(chosen.full, abs=1e-6)
    path = student.folder / "architecture.json"
    assert read_provenance(json.loads(path.read_text()), path).quality == pytest.approx(chosen.full, abs=1e-6)
    assert found.run.metadata.teacher.validation == pytest.approx(
        find_task(found.data.task).quality(
            predict_logits(found.teacher, [found.data.batch("val", torch.arange(len(found.data.val)))[0]]),
            found.data.labels("val"),
        )
    )


def test_the_student_has_learnt_from_its_teacher(found):
    least = {"sums": 0.8, "diabetes": 0.3, "strokes": 0.9}[found.data.name]
    evaluation = found.run.best().student().evaluate()
    assert evaluation.quality > least
    assert evaluation.agreement > least
    assert evaluation.retained > 0.85
    assert evaluation.count == len(found.data.test)


def test_report_card_picture_and_file_are_of_the_task(found):
    report = found.run.report()
    quality = {"multilabel": "mean average precision", "regression": "R²"}[found.data.task]
    assert f"of the teacher's {quality}" in result_lines(report)[0]
    assert any("labels only" in line for line in result_lines(report))
    text = found.run.folder.card_md.read_text(encoding="utf-8")
    assert f"| {quality} |" in text
    assert f"validation {quality}" in text
    assert "accuracy" not in text
    assert found.run.folder.front_png.exists()
    assert found.run.plot().axes[0].get_ylabel() == f"validation {quality}"
    export = found.run.best().student().export(found.run.folder.path / "other.onnx")
    assert export["parity"]["same_predictions"] == 1
    assert export["parity"]["max_abs_difference"] < 1e-4


def test_updates_use_the_losses_of_the_task(found):
    student = found.run.best().student()
    updated = student.update(found.data, epochs=1, batch_size=32)
    assert updated.evaluate("val").quality > student.evaluate("val").quality - 0.1
    other = nd.Dataset.from_tensors(found.data.train.x, np.arange(len(found.data.train)) % 2)
    with pytest.raises(
        ConfigError, match=f"was trained for {found.data.task}, and data 'tensors' is of classification"
    ):
        student.update(other)


def test_mutual_learning_uses_the_losses_of_the_task(found):
    numbers = [record.number for record in found.run.records if record.state == "complete"][:2]
    students = found.run.distill_mutually(numbers, epochs=1)
    assert len(students) == 2
    with pytest.raises(ConfigError, match="the loss has no term"):
        found.run.distill_mutually(numbers, epochs=1, loss=["cosine_logits"])


def test_settings_for_classification_only_are_refused(found):
    with pytest.raises(ConfigError, match=r"final.loss.0: the loss 'kd' is for classification"):
        nd.search(**found.given, **{**QUICK, "final": {"loss": ["kd"]}})
    teacher, folder = freeze(found.teacher, found.data), found.run.folder.path / "store"
    with pytest.raises(TeacherError, match="top_k"):
        TeacherStore.build(folder, teacher, found.data, contents=Contents(top_k=1))


def test_a_teacher_in_other_units_is_noticed(tmp_path):
    data = sums()
    shifted = nn.Sequential(nn.Linear(6, 2))
    with torch.no_grad():
        shifted[0].bias.fill_(50)
    problem = resolve(search_file(space={"parameters": SPACE}), data=data, teacher=shifted, builder=build)
    said = []
    observer = SimpleNamespace(note=said.append, step=lambda done, total: None)
    pipeline = Pipeline(problem, RunFolder(tmp_path / "run"), observer, Interruption())
    found = pipeline._teacher_validation()
    assert found < 0
    (sentence,) = said
    assert sentence.startswith(f"The teacher's R² on validation data is {found:.2f}, worse than their mean;")


def search_file(**sections):
    return SearchFile.model_validate({"data": "d", "teacher": "t", "space": "s", **sections})


def test_explicit_losses_are_unchanged():
    config = search_file(score={"loss": ["mse"]}, final={"epochs": 3})
    changed = with_default_losses(config, "regression")
    assert [term.name for term in changed.score.training.loss] == ["mse"]
    assert changed.final.training.loss == default_loss("regression")
    assert changed.final.training.epochs == 3
    assert with_default_losses(config, "classification") is config
    assert config.final.training.loss == default_loss("classification") == TrainingConfig().loss


def test_settings_that_need_classes_are_named():
    _check_task(search_file(), "regression", None)
    with pytest.raises(ConfigError, match=r"score.curriculum.by: .* entropy .* 'student_loss'"):
        _check_task(search_file(score={"curriculum": {}}), "regression", None)
    _check_task(search_file(score={"curriculum": {}}), "multilabel", None)
    _check_task(search_file(search={"strategy": "blockwise"}, blockwise={"score": "kl"}), "multilabel", None)
    cutting = SimpleNamespace(depth="redundancy")
    with pytest.raises(ConfigError, match="'redundancy' compares"):
        _check_task(search_file(), "multilabel", cutting)
    _check_task(search_file(search={"strategy": "blockwise"}), "classification", cutting)


MODULE = """
import numpy as np
from torch import nn


def load():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype("float32")
    return x, x.sum(1) + x[:, 0] ** 2


def build(width, input_shape, num_classes):
    return nn.Sequential(nn.Linear(*input_shape, width), nn.ReLU(), nn.Linear(width, num_classes))
"""


def test_a_search_file_names_a_task(cli, tmp_path, monkeypatch, one_thread):
    """A teacher, a search and commands on regression data with one target per sample."""
    (tmp_path / "numbers_of_mine.py").write_text(MODULE, encoding="utf-8")
    data = {"name": "numbers_of_mine:load", "task": "regression"}
    teach = {
        "data": data,
        "builder": "numbers_of_mine:build",
        "arguments": {"width": 32},
        "training": {"epochs": 8, "batch_size": 16, "optimizer": {"lr": 0.05}},
        "output": "teacher",
    }
    (tmp_path / "teach.yaml").write_text(yaml.safe_dump(teach), encoding="utf-8")
    said = cli("teach", tmp_path / "teach.yaml")
    assert said.code == 0, said.err
    assert "val samples" in said.out
    description = json.loads((tmp_path / "teacher" / "teacher.json").read_text())
    assert {"quality", "validation_quality"} <= set(description)
    assert "| R² (val, 40 samples) |" in (tmp_path / "teacher" / "card.md").read_text(encoding="utf-8")
    settings = {name: value for name, value in QUICK.items() if name in ("score", "final", "latency")}
    search = {
        "data": data,
        "teacher": "teacher",
        "space": {"builder": "numbers_of_mine:build", "parameters": {"width": [4, 8]}},
        "search": {"trials": 2, "seeds": 2, "backend": "inline"},
        **settings,
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(search), encoding="utf-8")
    answer = cli("search", tmp_path / "mine.yaml")
    assert answer.code == 0, answer.err
    assert "validation R²" in answer.out
    assert "There is no test data" in answer.out
    shown = cli("evaluate", tmp_path / "mine")
    assert "R² " in shown.out
    assert "RMSE" in shown.out
    assert cli("evaluate", tmp_path / "mine", "--json").json["r2"] > 0.5
    assert "quality: validation R²" in cli("front", tmp_path / "mine").out
    assert "same" not in cli("store", "verify", tmp_path / "mine").out
    assert "same" not in cli("export", tmp_path / "mine").out
