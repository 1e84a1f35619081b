"""The command calibrate, and searches that use its advice."""

import shutil

import pytest
import yaml

from nas_distill.calibration.advice import load_advice
from nas_distill.calibration.trainings import TrainingTable
from nas_distill.study.start import prepare
from nas_distill.utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = {"score": {"epochs": 1, "rungs": [0.5, 1.0], "batch_size": 128}, "final": {"epochs": 2, "batch_size": 128}}


@pytest.fixture(scope="module")
def calibrated(cli, teacher_folder, tmp_path_factory):
    """A search file with its finished calibration beside it; tests that change it use a copy."""
    folder = tmp_path_factory.mktemp("calibrated")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    content = {
        "data": "digits",
        "teacher": {"name": str(teacher_folder), "store": str(teacher_folder.parent / "store")},
        "space": {
            "name": "small",
            "builder": "nas_distill.models.resnet:build",
            "parameters": {
                "stem": [8],
                "stages": {"each": [{"depth": [1, 2], "width": [8, 16, 24], "block": ["basic"]}]},
            },
        },
        "search": {"backend": "inline", "trials": 2, "seeds": 1},
        "latency": {"calibrate": 0},
        **SHORT,
    }
    content["space"]["parameters"]["stem"] = [8, 16]
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    answer = cli("calibrate", file, "--count", "8", "--quiet")
    torch.set_num_threads(before)
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    return file


@pytest.fixture
def copy(calibrated, tmp_path):
    shutil.copytree(calibrated.parent, tmp_path / "copy")
    return tmp_path / "copy" / calibrated.name


def results(file):
    return file.with_name("small-calibration")


def scores(file):
    return {
        entry.training: (entry.epochs, entry.quality)
        for entry in TrainingTable(results(file) / "trainings.csv").readings
    }


def test_a_calibration_writes_a_table_a_report_a_picture_and_advice(calibrated):
    folder = results(calibrated)
    names = {path.name for path in folder.iterdir()}
    assert {"trainings.csv", "networks.json", "calibration.md", "calibration.png", "advice.yaml"} <= names
    readings = TrainingTable(folder / "trainings.csv").readings
    assert {entry.kind for entry in readings} == {
        "full", "full-labels", "kd@0.5", "kd@1", "ce@0.5", "ce@1", "kd-constant"
    }  # fmt: skip
    assert len({entry.training for entry in readings}) == 8 * 8
    assert not any(entry.cause for entry in readings)
    assert all(0 <= entry.quality <= 1 and entry.loss > 0 for entry in readings)
    report = (folder / "calibration.md").read_text()
    assert "| kd@1, TSE | 8 |" in report
    assert "full distillation, another seed" in report
    assert set(load_advice(folder / "advice.yaml")) <= {"score", "search"}


def test_a_killed_calibration_resumes_with_the_same_result(copy, cli):
    folder = results(copy)
    expected = scores(copy)
    text = (folder / "trainings.csv").read_text()
    lines = text.splitlines(keepends=True)
    (folder / "trainings.csv").write_text("".join(lines[:-9]) + lines[-9][:20])
    assert 0 < len(scores(copy)) < len(expected)
    answer = cli("calibrate", copy, "--count", "8", "--resume", "--json")
    assert answer.code == 0
    assert scores(copy) == expected
    assert answer.json["networks"] == 8
    assert answer.json["failed"] == 0
    scored = {entry["name"]: (entry["figure"], entry["early"]) for entry in answer.json["scores"]}
    assert {"FLOPs", "kd@1", "ce@1", "kd-ce@1"} <= set(scored)
    assert scored["kd@1"] == ("quality", False)
    assert scored["kd@1, last weights"] == ("last", False)


def test_a_calibration_is_not_overwritten_nor_mixed_with_another(copy, cli):
    answer = cli("calibrate", copy, "--count", "8")
    assert answer.code == 2
    assert "--resume" in answer.err
    answer = cli("calibrate", copy, "--count", "9", "--resume")
    assert answer.code == 2
    assert "another 'networks'" in answer.err
    copy.write_text(copy.read_text().replace("seed: 0", "") + "\nseed: 5\n")
    answer = cli("calibrate", copy, "--count", "8", "--resume")
    assert answer.code == 2
    assert "'seed'" in answer.err


def test_invalid_arguments_are_refused_in_one_sentence(copy, cli, tmp_path):
    for arguments, expected in (
        (["--count", "3"], "at least 8"),
        (["--count", "8", "--folder", str(copy.parent)], "not a calibration"),
        (["--count", "20", "--folder", str(tmp_path / "budget")], None),
    ):
        if expected is None:
            copy.write_text(copy.read_text() + "\nbudget: {flops: 1}\n")
            expected = "architectures within the budget"
        answer = cli("calibrate", copy, *arguments)
        assert (answer.code, answer.out.count("Traceback")) == (2, 0)
        assert expected in answer.err
    assert cli("calibrate", tmp_path / "none.yaml").code == 2


def test_advice_sets_only_keys_that_the_search_file_does_not(copy, tmp_path):
    advice = tmp_path / "advice.yaml"
    advice.write_text("score: {epochs: 7.0, rungs: [0.25, 1.0], ema: 0.0}\nsearch: {pruning: {margin: 0.03}}\n")
    config = prepare(copy, calibration=advice, settings={})[0].config
    assert (config.score.training.epochs, config.score.rungs) == (1, (0.5, 1.0))
    assert (config.score.training.ema, config.search.pruning.margin, config.search.trials) == (0.0, 0.03, 2)
    copy.write_text(copy.read_text() + "\ncalibration: small-calibration/advice.yaml\n")
    (results(copy) / "advice.yaml").write_text("search: {pruning: {margin: 0.04}}\n")
    assert prepare(copy, settings={})[0].config.search.pruning.margin == 0.04
    assert prepare(copy, calibration=advice, settings={})[0].config.search.pruning.margin == 0.03
    assert prepare(copy, settings={"pruning": {"margin": 0.01}})[0].config.search.pruning.margin == 0.01


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency: {repeats: 9}\n", "'latency' is not advice"),
        ("score: 3\n", "'score' is not advice"),
        ("score: {epoch: 3}\n", "did you mean 'epochs'"),
        ("search: {pruning: {margin: -1}}\n", "margin"),
        (None, "does not exist"),
    ],
)
def test_invalid_advice_is_refused(copy, cli, tmp_path, text, expected):
    advice = tmp_path / "advice.yaml"
    if text is not None:
        advice.write_text(text)
    answer = cli("search", copy, "--dry-run", "--calibration", advice)
    assert answer.code == 2
    assert expected in answer.err
    with pytest.raises(ConfigError):
        load_advice(advice)
