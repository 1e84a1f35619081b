"""Runs, their trials and students, opened from a folder."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import nas_distill as nd
from nas_distill.runs.metadata import Phase
from nas_distill.study.observer import Silent
from nas_distill.study.student import Student
from nas_distill.utils.errors import BudgetError, ConfigError, RunError
from tests.study.conftest import QUICK

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def copied(own_run, given, tmp_path):
    """A copy of a user's run that may be changed, opened with the search's objects."""
    folder = shutil.copytree(own_run.folder.path, tmp_path / "run")
    return nd.open_run(folder, teacher=given["teacher"], data=given["data"], builder=given["builder"])


class Watching(Silent):
    def __init__(self):
        self.steps = []

    def step(self, done, total, text=""):
        if text:
            self.steps.append((done, total))


# Looking.


def test_a_run_is_opened_by_its_folder_only(own_run):
    opened = nd.open_run(own_run.folder.path)
    assert opened.finished
    assert opened.front().equals(own_run.front())
    assert opened.trials().shape[0] == len(own_run.records)
    assert opened.report().student.evaluation == own_run.report().student.evaluation
    assert opened.best().costs == own_run.best().costs
    assert "finished" in repr(opened)
    assert "<table" in opened._repr_html_()
    assert repr(opened.best()).startswith(f"Trial({opened.best().record.number}: ")


def test_objects_from_python_are_needed_where_networks_are_built(own_run, given):
    opened = nd.open_run(own_run.folder.path)
    for use in (lambda: opened.problem, opened.best().build, opened.best().student().evaluate):
        with pytest.raises(ConfigError, match=r"given from Python.*open_run\(folder, data=\.\.\.\)"):
            use()
    with pytest.raises(ConfigError, match="teacher was given from Python"):
        _ = nd.open_run(own_run.folder.path, data=given["data"]).problem
    whole = nd.open_run(own_run.folder.path, **given_again(given))
    assert whole.best().student().evaluate("val") == own_run.best().student().evaluate("val")


def test_other_data_or_another_teacher_than_the_searchs_are_refused(own_run, given):
    data = given["data"]
    other = nd.Dataset.from_tensors(data.train.x + 1, data.train.y, val=(data.val.x, data.val.y))
    with pytest.raises(RunError, match="searched with another data than 'tensors'"):
        _ = nd.open_run(own_run.folder.path, **{**given_again(given), "data": other}).problem
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(RunError, match="searched with another teacher"):
        _ = nd.open_run(own_run.folder.path, **{**given_again(given), "teacher": teacher}).problem


def given_again(given):
    return {key: given[key] for key in ("data", "teacher", "builder")}


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        nd.open_run(tmp_path / "none")
    with pytest.raises(RunError, match="holds no run"):
        nd.open_run(tmp_path)


def test_a_run_without_trials_or_search_file_is_refused(own_run, tmp_path):
    folder = shutil.copytree(own_run.folder.path, tmp_path / "run")
    (folder / "search.yaml").unlink()
    with pytest.raises(RunError, match=r"no search\.yaml"):
        nd.open_run(folder).status()
    (folder / "study.journal").write_bytes(b"")
    with pytest.raises(RunError, match="holds no trials yet"):
        nd.open_run(folder)


def test_the_best_under_another_budget_needs_no_training(own_run):
    complete = sorted((r for r in own_run.records if r.state == "complete"), key=lambda r: r.costs["flops"])
    cheapest = complete[0]
    picked = own_run.best({"flops": cheapest.costs["flops"]})
    assert picked.record.number == cheapest.number
    assert list(own_run.front({"flops": cheapest.costs["flops"]}).index) == [cheapest.number]
    assert own_run.best({"flops": "100%"}).record.number == own_run.best().record.number
    with pytest.raises(BudgetError, match=r"'flops' .* binds"):
        own_run.best({"flops": cheapest.costs["flops"] - 1})
    with pytest.raises(BudgetError, match="did you mean 'flops'"):
        own_run.front({"flop": 1})


def test_the_best_is_a_finalist_where_one_fits(own_run):
    (student,) = (finalist for finalist in own_run.finalists() if finalist.chosen)
    assert own_run.best().record.number == student.trial


def test_the_student_of_a_run_is_what_the_search_distilled(copied):
    """Also after a longer distillation of the same trial, which has to be chosen explicitly."""
    student = copied.student()
    assert student.key == copied.best().record.key
    assert student.provenance.quality == max(entry.full for entry in copied.finalists() if entry.full is not None)
    assert torch.equal(student.module(torch.ones(1, 1, 8, 8)), copied.student().module(torch.ones(1, 1, 8, 8)))
    copied.best().distill(epochs=2, quiet=True)
    assert copied.student().key == student.key


def test_a_run_without_a_finished_student_is_an_error(copied):
    copied.metadata = copied.metadata.changed(finalists={})
    with pytest.raises(RunError, match="no finished student yet"):
        copied.student()


def test_the_front_has_few_columns_and_the_trials_have_all(own_run):
    front = own_run.front()
    assert front.index.name == "trial"
    assert list(front.columns) == ["quality", "full_quality", "flops", "params"]
    assert set(front.columns) - {"full_quality"} < set(own_run.trials().columns)
    full = {entry.trial: entry.full for entry in own_run.finalists()}
    assert front["full_quality"].dropna().to_dict() == {n: q for n, q in full.items() if n in front.index}
    assert max(len(line) for line in repr(front).splitlines()) <= 80


def test_trials_no_better_than_a_constant_answer_are_on_no_front(copied):
    complete = sorted((r for r in copied.records if r.state == "complete"), key=lambda r: r.final_quality)
    assert 0 < copied.metadata.constant_quality < complete[0].final_quality
    assert "constant answer" not in copied._repr_html_()
    guess = complete[-1].final_quality
    copied.metadata = copied.metadata.changed(constant_quality=guess)
    assert copied.front().empty
    assert copied.status()["front"] == 0
    told = f"{len(complete)} of {len(complete)} complete trial"
    assert told in copied._repr_html_()
    assert "constant answer" in copied._repr_html_()
    assert any(note.startswith(told) for note in copied.report().notes)
    assert copied.best().record.number == copied.student().record.number


def test_a_trial_lists_its_qualities(own_run):
    best, full = own_run.best(), own_run.student().provenance.quality
    for text in (repr(best), best._repr_html_()):
        assert f"{100 * full:.2f} %" in text
        assert f"{100 * best.record.final_quality:.2f} %" in text
        assert "after full distillation" in text
    others = {record.number for record in own_run.records} - {entry.trial for entry in own_run.finalists()}
    assert all("full" not in repr(own_run.trial(number)) for number in others)


def test_status_counts_the_epochs_of_full_distillations_and_the_time_left(copied):
    found, trainings = copied.status(), len(copied.metadata.finalists)
    assert (found["full_epochs"], found["full_epochs_requested"]) == (trainings, trainings)
    assert found["full_seconds_left"] is None
    taught = next(entry for entry in copied.metadata.finalists.values() if entry.taught)
    labels = next(entry for entry in copied.metadata.finalists.values() if not entry.taught)
    going = labels.model_copy(update={"qualities": (), "quality": None})
    copied.metadata = copied.metadata.changed(
        finalists={"a": taught, "b": going}, phase=Phase.FULL_DISTILLATION, finished=False
    )
    found = copied.status()
    assert (found["phase"], found["full_epochs"], found["full_epochs_requested"]) == ("full distillation", 1, 2)
    assert found["full_seconds_left"] == pytest.approx(taught.seconds, abs=0.1)


def test_unknown_trials_are_refused(own_run):
    with pytest.raises(RunError, match=rf"has no trial 99; it has 0 to {len(own_run.records) - 1}\."):
        own_run.trial(99)
    with pytest.raises(RunError, match="has no trial -1"):
        own_run.trial(-1)


def test_status_counts_the_records(own_run):
    status = own_run.status()
    assert status["state"] == "finished"
    assert status["requested"] == status["trained"] == 3
    assert sum(status.get(state, 0) for state in ("complete", "pruned", "failed")) == 3
    assert json.dumps(status)


def test_a_trial_in_plain_values(own_run):
    for record in own_run.records:
        found = own_run.trial(record.number).to_dict()
        assert (found["trial"], found["state"], found["hash"]) == (
            record.number,
            record.state,
            record.architecture.hash,
        )


def test_the_figure_needs_no_objects_from_python(own_run, tmp_path):
    import matplotlib.pyplot as plt

    figure = nd.open_run(own_run.folder.path).plot({"flops": "40%"})
    figure.savefig(tmp_path / "front.png")
    plt.close(figure)
    assert (tmp_path / "front.png").stat().st_size > 1000


# Students.


def test_a_fraction_of_an_epoch_is_reported_as_in_the_search(copied):
    watching = Watching()
    copied.best().distill(epochs=2.4, observer=watching)
    assert watching.steps == [(1, 3), (2, 3), (3, 3)]


def test_a_trial_is_distilled_exported_and_loaded_again(copied, given):
    trial = copied.best()
    watching = Watching()
    student = trial.distill(epochs=2, observer=watching)
    assert isinstance(student, Student)
    assert watching.steps == [(1, 2), (2, 2)]
    assert student.folder == copied.folder.path / "students" / f"{trial.record.key}-2-epochs"
    spec = json.loads((student.folder / "architecture.json").read_text())
    assert spec["metadata"]["epochs"] == 2.0
    assert student.provenance.kind == "final"
    assert student.evaluate("val").accuracy == pytest.approx(student.provenance.quality)
    result = student.export(copied.folder.path / "student.onnx")
    assert (copied.folder.path / "student.onnx").stat().st_size == result["bytes"]
    loaded = nd.load_student(student.folder, builder=given["builder"])
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), student.module(x))
    assert not loaded.training
    assert list(copied.folder.checkpoints.iterdir()) == []
    assert repr(student).startswith(f"Student({str(student.folder)!r}, final, ")


def test_each_setting_and_seed_has_its_own_student(copied):
    trial = copied.best()
    made = [
        trial.distill(epochs=1),
        trial.distill(epochs=1, seed=7),
        trial.distill(epochs=1, taught=False),
        trial.distill(epochs=1, batch_size=16),
        trial.distill(epochs=1, batch_size=8),
    ]
    assert len({student.folder for student in made}) == len(made)
    assert all((student.folder / "model.safetensors").exists() for student in made)
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        trial.distill(batch_sise=3)


def test_the_student_of_a_trial_is_its_best_taught_one(copied):
    trial = copied.best()
    searched = trial.student()
    assert searched.key == trial.record.key
    longer = trial.distill(epochs=2)
    trial.distill(epochs=3, taught=False)
    for better, worse in ((longer, searched), (searched, longer)):
        for student, accuracy in ((better, 0.9), (worse, 0.4)):
            file = student.folder / "architecture.json"
            spec = json.loads(file.read_text())
            spec["provenance"]["quality"] = accuracy
            file.write_text(json.dumps(spec))
        assert trial.student().key == better.key
        assert [student.key for student in trial.students()] == [better.key, worse.key]


def test_a_partly_written_student_is_not_listed(copied):
    trial = copied.best()
    half = copied.folder.students / f"{trial.record.key}-9-epochs"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"")
    assert [student.key for student in trial.students()] == [trial.record.key]


def test_a_trial_that_was_not_a_finalist_has_no_student_yet(own_run):
    finalists = {entry.trial for entry in own_run.finalists()}
    other = next(record.number for record in own_run.records if record.number not in finalists)
    assert own_run.trial(other).students() == []
    with pytest.raises(RunError, match=rf"nas-distill distill .* {other}'"):
        own_run.trial(other).student()


def test_an_interrupted_distillation_resumes(copied):
    trial = copied.best()

    class Leaving(Watching):
        def step(self, done, total, text=""):
            super().step(done, total, text)
            if done == 2 and text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trial.distill(epochs=3, observer=Leaving())
    watching = Watching()
    again = trial.distill(epochs=3, observer=watching)
    assert watching.steps == [(2, 3), (3, 3)]
    whole = trial.distill(epochs=3, seed=copied.config.seed)
    assert all(
        torch.equal(one, two)
        for one, two in zip(again.module.state_dict().values(), whole.module.state_dict().values(), strict=True)
    )


def test_a_missing_split_is_named(own_run):
    with pytest.raises(ConfigError, match="no split 'test'; known: train, val"):
        own_run.best().student().evaluate("test")


@pytest.mark.usefixtures("no_export")
def test_relative_files_are_found_wherever_the_run_is_kept(search_file, teacher_folder, tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    shutil.copytree(teacher_folder, project / "my-teacher")
    file = search_file(folder=project, teacher={"name": "my-teacher", "store": "kept"}, final={"baseline": False})
    monkeypatch.chdir(tmp_path)
    run = nd.search(file, folder=elsewhere / "run", trials=1, seeds=0)
    assert (project / "kept").is_dir()
    monkeypatch.chdir("/")
    opened = nd.open_run(run.folder.path)
    assert opened.best().student().evaluate("val").count == 288
    assert opened.verify_store(64).samples == 64


@pytest.fixture(scope="module")
def unnamed(given, tmp_path_factory):
    """A finished run whose data, teacher and builder exist only in this process, and its folder."""
    folder = tmp_path_factory.mktemp("unnamed") / "run"

    def build(width, depth):  # nobody can import what is defined in a function
        return given["builder"](width, depth, (1, 8, 8), 4)

    settings = {**QUICK, "trials": 1, "seeds": 0}
    nd.search(**{**given, "builder": build}, folder=folder, quiet=True, **settings)
    return folder


@pytest.mark.filterwarnings("error")
def test_the_command_line_works_on_a_run_that_came_from_python(unnamed, tmp_path):
    """In a separate process without data, teacher and builder."""
    exported = tmp_path / "student.onnx"
    commands = [["front", unnamed], ["show", unnamed, "0"], ["status", unnamed], ["card", unnamed]]
    commands += [["export", unnamed, "--output", exported], ["export", unnamed, "--json"]]
    code = "import sys, json\nfrom nas_distill.cli import main\nfor line in json.loads(sys.argv[1]): main(line)"
    code = "import sys, json\nfrom typer.testing import CliRunner\nfrom nas_distill.cli import app\n"
    code += "for line in json.loads(sys.argv[1]):\n    found = CliRunner().invoke(app, line)\n"
    code += "    assert found.exit_code == 0, (line, found.output, found.exception)\n"
    lines = json.dumps([[str(part) for part in line] for line in commands])
    found = subprocess.run([sys.executable, "-W", "error", "-c", code, lines], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert exported.read_bytes() == next((unnamed / "students").glob("*/model.onnx")).read_bytes()


def test_a_student_is_exported_without_the_data(unnamed, tmp_path):
    opened = nd.open_run(shutil.copytree(unnamed, tmp_path / "run"))
    (opened.student().folder / "model.onnx").unlink()
    result = opened.student().export(tmp_path / "student.onnx")
    assert result["samples"] == "random"
    assert result["parity"]["same_predictions"] == 1.0
    assert result["path"] == str(tmp_path / "student.onnx")


def test_the_loading_code_of_the_card_works(unnamed):
    """For a builder that cannot be imported, the card shows how to load the graph."""
    text = nd.open_run(unnamed).card()
    assert "import_module" not in text
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code) == 3
    for block in code:
        found = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
