"""A calibration as its user runs it, and what a search takes from it."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from nas_distill.calibration.advice import advise, load_advice, with_advice
from nas_distill.calibration.scores import Figure, Study, rank, read_out
from nas_distill.calibration.trainings import Reading, TrainingTable
from nas_distill.cli.commands import _say_calibration
from nas_distill.study.start import prepare
from nas_distill.utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = {"score": {"epochs": 1, "rungs": [0.5, 1.0], "batch_size": 128}, "final": {"epochs": 2, "batch_size": 128}}


@pytest.fixture(scope="module")
def calibrated(cli, teacher_folder, tmp_path_factory):
    """A search file with its finished calibration beside it; whoever writes there copies it first."""
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


def test_it_leaves_a_table_a_report_a_picture_and_advice(calibrated):
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


def test_one_that_was_killed_goes_on_and_comes_to_the_same(copy, cli):
    folder = results(copy)
    whole = scores(copy)
    text = (folder / "trainings.csv").read_text()
    lines = text.splitlines(keepends=True)
    (folder / "trainings.csv").write_text("".join(lines[:-9]) + lines[-9][:20])
    assert 0 < len(scores(copy)) < len(whole)
    answer = cli("calibrate", copy, "--count", "8", "--resume", "--json")
    assert answer.code == 0
    assert scores(copy) == whole
    assert answer.json["networks"] == 8
    assert answer.json["failed"] == 0
    scored = {entry["name"]: (entry["figure"], entry["early"]) for entry in answer.json["scores"]}
    assert {"FLOPs", "kd@1", "ce@1", "kd-ce@1"} <= set(scored)
    assert scored["kd@1"] == ("quality", False)
    assert scored["kd@1, last weights"] == ("last", False)


def test_a_calibration_is_not_overwritten_nor_mixed_with_another(copy, cli):
    answer = cli("calibrate", copy, "--count", "8")
    assert answer.code == 2
    assert "--resume goes on with it" in answer.err
    answer = cli("calibrate", copy, "--count", "9", "--resume")
    assert answer.code == 2
    assert "another 'networks'" in answer.err
    copy.write_text(copy.read_text().replace("seed: 0", "") + "\nseed: 5\n")
    answer = cli("calibrate", copy, "--count", "8", "--resume")
    assert answer.code == 2
    assert "'seed'" in answer.err


def test_what_is_asked_wrongly_is_refused_in_a_sentence(copy, cli, tmp_path):
    for arguments, said in (
        (["--count", "3"], "too few to say anything"),
        (["--count", "8", "--folder", str(copy.parent)], "holds something else"),
        (["--count", "20", "--folder", str(tmp_path / "budget")], None),
    ):
        if said is None:
            copy.write_text(copy.read_text() + "\nbudget: {flops: 1}\n")
            said = "architectures within the budget"
        answer = cli("calibrate", copy, *arguments)
        assert (answer.code, answer.out.count("Traceback")) == (2, 0)
        assert said in answer.err
    assert cli("calibrate", tmp_path / "none.yaml").code == 2


def test_a_search_takes_what_its_file_does_not_spell_out(copy, tmp_path):
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
    ("text", "said"),
    [
        ("latency: {repeats: 9}\n", "'latency' is not what a calibration advises"),
        ("score: 3\n", "'score' is not what"),
        ("score: {epoch: 3}\n", "did you mean 'epochs'"),
        ("search: {pruning: {margin: -1}}\n", "margin"),
        (None, "does not exist"),
    ],
)
def test_advice_that_is_none_is_refused(copy, cli, tmp_path, text, said):
    advice = tmp_path / "advice.yaml"
    if text is not None:
        advice.write_text(text)
    answer = cli("search", copy, "--dry-run", "--calibration", advice)
    assert answer.code == 2
    assert said in answer.err
    with pytest.raises(ConfigError):
        load_advice(advice)


def test_the_file_wins_over_advice_at_every_depth():
    own = {"search": {"pruning": {"margin": 0.1}, "trials": 3}}
    advice = {"search": {"pruning": {"margin": 0.2, "z": 2.0}}, "score": {"epochs": 1.0}}
    assert with_advice(own, advice) == {
        "search": {"pruning": {"margin": 0.1, "z": 2.0}, "trials": 3},
        "score": {"epochs": 1.0},
    }
    assert own == {"search": {"pruning": {"margin": 0.1}, "trials": 3}}


def made(short, shorter, full, early=None):
    """Readings of ``kd@1`` and ``kd@3`` (read at 1 as ``early``) of networks from cheap to dear."""

    def reading(place, kind, seed, epochs, of, quality):
        return Reading(f"n-{place:02d}", 2.0**place, 1.0, kind, seed, epochs, of, 1, quality, quality, 1.0, epochs)

    early = shorter if early is None else early
    for place, quality in enumerate(full):
        for seed in (0, 1):
            yield reading(place, "full", seed, 9.0, 9.0, quality + 0.001 * seed)
        yield reading(place, "kd@1", 0, 1.0, 1.0, shorter[place])
        yield reading(place, "kd@3", 0, 1.0, 3.0, early[place])
        yield reading(place, "kd@3", 0, 3.0, 3.0, short[place])


def advised(*rows, **more):
    study = Study(list(made(*rows, **more)))
    return advise(study, [{"flops": value} for value in study.flops], ("flops",))


RISING = [0.5 + 0.03 * place for place in range(12)]


def test_the_table_leaves_out_early_read_outs_and_last_weights_whatever_they_are_called(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    study = Study(list(made(RISING, RISING, RISING)))
    shown = [read_out(study, "kd@3"), read_out(study, "kd@3", figure=Figure.LOSS)]
    hidden = [read_out(study, "kd@3", 1.0), read_out(study, "kd@3", figure=Figure.LAST)]
    ranked = [rank(study, replace(score, name=f"score{place}")) for place, score in enumerate((*shown, *hidden))]
    found = SimpleNamespace(networks=12, rankings=ranked, advice=None, report="r", advice_file="a")
    _say_calibration(found)
    text = capsys.readouterr().out
    assert [f"score{place}" in text for place in range(4)] == [True, True, False, False]


def test_the_shorter_is_advised_where_it_ranks_as_well():
    assert advised(RISING, RISING, RISING).keys["score"]["epochs"] == 1.0


def test_the_longer_is_advised_where_the_shorter_ranks_worse():
    worse = [0.5, 0.8, 0.6, 0.55, 0.7, 0.9, 0.65, 0.75, 0.95, 0.85, 0.7, 0.9]
    found = advised(RISING, worse, RISING)
    assert found.keys["score"]["epochs"] == 3.0
    assert "the best" in found.reasons[0]


def test_where_nothing_is_sure_the_longest_is_kept_and_said_so():
    found = advised(RISING[::-1], RISING[::-1], RISING)
    assert found.keys["score"]["epochs"] == 3.0
    assert "calibrate with more networks" in found.reasons[0]


def test_the_margin_spares_what_ends_on_the_front():
    worse = [0.5, 0.8, 0.6, 0.55, 0.7, 0.9, 0.65, 0.75, 0.95, 0.85, 0.7, 0.9]
    full = [*RISING[:-1], 0.1]  # the dearest ends badly
    early = [0.5 + 0.002 * place for place in range(12)]
    early[6] -= 0.008  # starts slowly, and ends on the front: 0.006 behind the one before it
    early[11] = 0.2
    found = advised(full, worse, full, early=early)
    assert found.keys["search"]["pruning"]["margin"] == 0.01
    assert found.keys["score"]["rungs"] == [0.3333, 1.0]
    assert yaml.safe_load(found.yaml()) == found.keys


def test_a_rung_at_which_nothing_stops_is_left_out():
    worse = [0.5, 0.8, 0.6, 0.55, 0.7, 0.9, 0.65, 0.75, 0.95, 0.85, 0.7, 0.9]
    found = advised(RISING, worse, RISING, early=RISING)
    assert found.keys["score"]["rungs"] == [1.0]
    assert any("there is no rung" in reason for reason in found.reasons)


SCATTERED = [0.71, 0.64, 0.78, 0.69, 0.74, 0.61, 0.8, 0.66, 0.73, 0.77, 0.63, 0.7]


def test_a_slope_that_is_known_is_advised():
    full = [score + 0.01 * place for place, score in enumerate(SCATTERED)]
    found = advised(SCATTERED, SCATTERED, full)
    assert found.keys["final"]["slope"] == pytest.approx(0.01, abs=1e-3)


def test_a_slope_that_is_hardly_known_is_not_advised():
    """Quality rises with the cost, the short score tells next to nothing of it: their ratio could be anything."""
    noise = [0.006, 0.0, -0.002, 0.005, -0.007, 0.003, 0.004, -0.006, 0.002, 0.007, -0.003, -0.005]
    full = [0.5 + 0.02 * place + error for place, error in enumerate(noise)]
    short = [score + error for score, error in zip(SCATTERED, noise)]
    found = advised(short, short, full)
    assert "final" not in found.keys
    (said,) = (reason for reason in found.reasons if reason.startswith("Finalists"))
    assert "95 % interval" in said
    assert "not advised: too few networks" in said


def test_without_full_trainings_there_is_no_advice():
    assert advise(Study([entry for entry in made(RISING, RISING, RISING) if entry.kind != "full"]), [], ()) is None
