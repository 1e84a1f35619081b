import json
import shutil

import pytest
import torch

import nas_distill as nd
from nas_distill.config import TrainingConfig
from nas_distill.data import load_dataset
from nas_distill.distill import Distiller
from nas_distill.evaluate.classification import accuracy, agreement
from nas_distill.evaluate.predict import predict_logits
from nas_distill.study.assistants import find_assistant
from nas_distill.study.observer import Silent
from nas_distill.study.trial import Trial
from nas_distill.utils.errors import ConfigError

SETTINGS = {
    "backend": "inline",
    "trials": 1,
    "seeds": 1,
    "score": {"epochs": 1, "batch_size": 32},
    "final": {"epochs": 6, "batch_size": 32, "count": 1, "baseline": False},
    "latency": {"calibrate": 0, "repeats": 5},
}


@pytest.fixture(scope="module")
def student(given, tmp_path_factory):
    """A finished student that classifies four patches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        content = {**given, "budget": None}
        return nd.search(**content, folder=tmp_path_factory.mktemp("update") / "run", **SETTINGS).best().student()
    finally:
        torch.set_num_threads(threads)


def samples(count, classes, seed=1, dark=0.0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.arange(count) % len(classes)]
    x = torch.rand(count, 1, 8, 8, generator=generator) - dark
    for place in range(4):
        row, column = divmod(place, 2)
        x[y == place, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.5
    return x, y


def dataset(count, classes, **keys):
    return nd.Dataset.from_tensors(*samples(count, classes, **keys), val=0.25, num_classes=4)


def right(student, x, y):
    return accuracy(predict_logits(student.module, [x]), y)


def digits_student(given, folder):
    data = load_dataset("digits")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        teacher = given["builder"](16, 2, data.input_shape, 10)
    distiller = Distiller(teacher, data, TrainingConfig(epochs=6), signal=None, seed=0)
    distiller.advance(10**6)
    run = nd.search(
        teacher=distiller.student(),
        data=data,
        builder=given["builder"],
        space=given["space"],
        folder=folder,
        **SETTINGS,
    )
    return run.best().student(), data


def test_distillation_from_the_former_student_reduces_forgetting(given, tmp_path):
    """Updated only on digits 5 to 9, it forgets digits 0 to 4, unless its former self teaches it."""
    student, data = digits_student(given, tmp_path / "run")
    x, y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
    known = data.normalisation()
    new = nd.Dataset.from_tensors(x[y >= 5], y[y >= 5], val=0.25, num_classes=10, mean=known["mean"], std=known["std"])
    settings = {"epochs": 5, "batch_size": 32, "optimizer": {"lr": 0.05}}
    forgetful, careful = (student.update(new, keep=keep, **settings) for keep in (0, 4.0))
    val, labels = data.batch("val", torch.arange(len(data.val)))
    old = labels < 5
    assert right(student, val[old], labels[old]) > 0.9
    assert right(forgetful, val[old], labels[old]) < 0.6
    assert right(careful, val[old], labels[old]) > 0.8
    for updated in (forgetful, careful):
        assert right(updated, val[~old], labels[~old]) > right(student, val[~old], labels[~old])


def test_personalisation_does_not_use_labels(student):
    """With wrong labels only, the student still learns from the teacher's answers."""
    x, y = samples(160, [0, 1, 2, 3], dark=0.5)
    wrong = nd.Dataset.from_tensors(x, (y + 1) % 4, val=0.25, num_classes=4)
    local = student.update(wrong, keep=0, labels=False, teacher=True, epochs=6, batch_size=32)
    teacher = student.run.problem.teacher.module
    test, _ = samples(200, [0, 1, 2, 3], seed=4, dark=0.5)
    wanted = predict_logits(teacher, [test])
    assert agreement(predict_logits(local.module, [test]), wanted) >= agreement(
        predict_logits(student.module, [test]), wanted
    )


def test_the_original_student_is_unchanged(student):
    before = {name: value.clone() for name, value in student.load().state_dict().items()}
    updated = student.update(dataset(64, [0, 1, 2, 3]), epochs=1, batch_size=16)
    assert updated.folder != student.folder
    assert all(torch.equal(value, before[name]) for name, value in student.load().state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in updated.load().state_dict().items())


def test_an_update_has_its_provenance_and_does_not_replace_the_trials_student(student):
    """Its quality is of other data, so it is not comparable with other students' qualities."""
    trial, data = Trial(student.run, student.record), dataset(64, [0])  # one class only: 100 % is soon reached
    before = [other.key for other in trial.students()]
    updated = student.update(data, keep=0, epochs=4, batch_size=16)
    found = updated.provenance
    assert (found.kind, found.trial, found.students) == ("updated", trial.record.key, (student.key,))
    assert (found.data, found.split, found.quality) == (data.fingerprint, "val", 1.0)
    assert found.data != student.provenance.data
    assert found.quality > student.provenance.quality
    assert trial.student().key == student.key
    assert [other.key for other in trial.students()] == before
    assert find_assistant(trial, "self", None, Silent()).student.key == student.key
    assert updated.key in [other.key for other in trial.students("updated")]


def test_a_student_of_other_data_is_not_a_student_of_the_run(student):
    """Even if its kind is comparable, the data that it was validated on decide."""
    stranger = student.folder.with_name(f"{student.key}-stranger")
    shutil.copytree(student.folder, stranger)
    file = stranger / "architecture.json"
    spec = json.loads(file.read_text())
    spec["provenance"] |= {"key": stranger.name, "quality": 1.0}
    try:
        file.write_text(json.dumps(spec))
        assert stranger.name in [other.key for other in Trial(student.run, student.record).students()]
        spec["provenance"]["data"] = "0" * 64
        file.write_text(json.dumps(spec))
        assert stranger.name not in [other.key for other in Trial(student.run, student.record).students()]
    finally:
        shutil.rmtree(stranger)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": -1}, "'keep' is -1"),
        ({"keep": 0, "labels": False}, "nothing to learn from"),
        ({"epoch": 3}, "did you mean 'epochs'"),
    ],
)
def test_invalid_settings_are_refused(student, changes, said):
    with pytest.raises(ConfigError, match=said):
        student.update(dataset(64, [0, 1, 2, 3]), **changes)


def test_other_data_are_refused(student):
    x, y = samples(64, [0, 1, 2, 3])
    for other, said in [
        (nd.Dataset.from_tensors(x, y, num_classes=5), "5 classes"),
        (nd.Dataset.from_tensors(x[:, :, :6, :6], y), r"shape \(1, 6, 6\)"),
        (nd.Dataset.from_tensors(x, y, mean=[0.5], std=[0.2]), "normalised otherwise"),
    ]:
        with pytest.raises(ConfigError, match=said):
            student.update(other)
