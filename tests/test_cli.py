"""The commands of nas-distill, on a terminal and in a script."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
import yaml

import nas_distill as nd
from nas_distill.cli import app, main
from nas_distill.config import load_search_file
from nas_distill.runs.folder import RunFolder
from nas_distill.study.trust import remember_run

pytestmark = pytest.mark.usefixtures("one_thread")

TEACH = {
    "data": "digits",
    "builder": "nas_distill.models.resnet:build",
    "arguments": {"stem": 8, "stages": [{"depth": 1, "width": 8, "block": "basic"}]},
    "training": {"epochs": 2, "batch_size": 128},
    "output": "made",
}


def commands(group=None, path=()):
    """All commands with their paths, groups included."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


ALL = [path for path, _ in commands()]


@pytest.fixture
def run_copy(finished_run, tmp_path):
    """A copy of a finished run that may be changed; it was declared trusted."""
    copied = Path(shutil.copytree(finished_run, tmp_path / "copied"))
    remember_run(RunFolder(copied), nd.open_run(copied).metadata.base)
    return copied


def one_line(answer, code=2):
    """Return the sentence of a refused command, its only output."""
    assert answer.code == code
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("nas-distill: ")
    return answer.err


# Help and mistakes at the prompt.


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_every_command_has_help(cli, path):
    answer = cli(*path, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert f"Usage: nas-distill {' '.join(path)}".strip() in answer.out


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_argument_and_option_has_help(path):
    command = dict(commands())[path]
    assert command.help
    for parameter in command.params:
        assert parameter.name == "help" or getattr(parameter, "help", None), parameter.name


def test_the_documented_commands_exist():
    wanted = {
        "search",
        "front",
        "show",
        "distill",
        "evaluate",
        "export",
        "spaces",
        "teach",
        "init",
        "status",
        "card",
        "store",
        "mutual",
        "calibrate",
        "assemble",
    }
    assert {path[0] for path in ALL} == wanted


def test_the_version_is_that_of_the_package(cli):
    from importlib.metadata import PackageNotFoundError, version

    try:
        expected = version("nas-distill")
    except PackageNotFoundError:
        from nas_distill import __version__ as expected
    assert cli("--version").out == f"nas-distill {expected}\n"


def test_without_arguments_commands_are_listed(cli):
    answer = cli()
    assert answer.code == 2
    assert "Commands" in answer.out
    assert answer.err == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serch", "x.yaml"], "Did you mean 'search'"),
        (["search", "x.yaml", "--trails", "3"], "--trials"),
        (["search", "x.yaml", "--trials", "many"], "--trials"),
        (["search"], "FILE"),
        (["search", "x.yaml", "--trials"], "--trials"),
        (["front", "a", "b"], "b"),
        (["show", "run", "first"], "TRIAL"),
        (["store", "verfy", "run"], "verify"),
    ],
    ids=" ".join,
)
def test_an_invalid_command_line_is_one_line(cli, arguments, expected):
    said = one_line(cli(*arguments))
    assert expected in said
    assert "--help" in said


@pytest.mark.parametrize("entry", ["flops", "=2M", "flops="])
def test_a_budget_that_is_not_a_pair_is_refused(cli, finished_run, entry):
    assert entry in one_line(cli("front", finished_run, "--budget", entry))


def test_python_dash_m_runs_it():
    command = [sys.executable, "-W", "error", "-m", "nas_distill.cli", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("nas-distill ")


# Bugs, pipes, disks.


def test_a_bug_is_one_line_and_its_traceback_is_written_to_a_file(cli, monkeypatch, tmp_path, finished_run):
    def broken(*_, **__):
        raise ZeroDivisionError("by what?")

    monkeypatch.setattr("nas_distill.study.run.Run.status", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = one_line(cli("status", finished_run), code=1)
    assert "ZeroDivisionError: by what?" in said
    (kept,) = tmp_path.glob("nas-distill-*.log")
    assert str(kept) in said
    assert "Traceback" in kept.read_text()
    assert "in broken" in kept.read_text()


def test_a_disk_error_is_one_line(cli, monkeypatch, finished_run):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(finished_run / "front.png"))

    monkeypatch.setattr("nas_distill.reports.plots.save_figure", full)
    answer = cli("front", finished_run)
    assert answer.code == 2
    assert f"the disk is full, so {finished_run / 'front.png'} could not be written" in answer.err
    assert answer.err.count("\n") == 1


def test_a_closed_pipe_is_not_an_error(finished_run):
    command = f"{sys.executable} -W error -m nas_distill.cli show {finished_run} 0 --json | head -c 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("{", "")


# Starting.


def test_init_writes_a_valid_search_file_and_overwrites_nothing(cli, tmp_path):
    file = tmp_path / "deep" / "mine.yaml"
    answer = cli("init", file)
    assert answer.code == 0
    assert str(file) in answer.out
    found = load_search_file(file)
    assert found.space == "mbconv"
    file.write_text("mine: true\n")
    assert "not overwritten" in one_line(cli("init", file))
    assert file.read_text() == "mine: true\n"


def test_init_has_a_default_name(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("init").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["search.yaml"]


def test_spaces_are_listed_with_their_sizes(cli):
    answer = cli("spaces")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()] == ["mbconv", "resnet"]
    found = cli("spaces", "--json").json
    assert all(entry["size"] >= 10**6 and entry["about"] for entry in found.values())


def test_a_space_is_described(cli, tmp_path):
    answer = cli("spaces", "resnet")
    assert answer.code == 0
    assert "stem" in answer.out
    found = cli("spaces", "resnet", "--json").json
    assert found["builder"] == "nas_distill.models.resnet:build"
    assert found["size"] == cli("spaces", "--json").json["resnet"]["size"]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"builder": "some.module:build", "parameters": {"width": [8, 16], "depth": [1, 2]}}))
    assert cli("spaces", own, "--json").json["size"] == 4
    assert "did you mean 'resnet'?" in one_line(cli("spaces", "resnt"))


def test_a_dry_run_shows_costs_and_writes_nothing(cli, search_file, tmp_path):
    file = search_file()
    before = sorted(tmp_path.rglob("*"))
    answer = cli("search", file, "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    for word in ("cheapest", "median", "largest", "teacher", "budget", "fits", "flops *", "4 trials on 1 worker"):
        assert word in answer.out, answer.out
    assert "trial 0" not in answer.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_in_json_with_another_budget(cli, search_file):
    file = search_file(budget={"flops": "60%", "params": "60k"})
    found = cli("search", file, "--dry-run", "--json", "--budget", "params=10k", "--trials", "7").json
    limits = {row["name"]: row["limit"] for row in found["rows"]}
    assert limits["params"]["high"] == 10_000
    teacher = {row["name"]: row["teacher"] for row in found["rows"]}
    assert limits["flops"]["high"] == pytest.approx(0.6 * teacher["flops"])
    assert found["trials"] == 7
    assert 0 < found["fits_all"] < 1


def test_a_quiet_dry_run_prints_nothing(cli, search_file):
    assert cli("search", search_file(), "--dry-run", "--quiet") == type(cli("--version"))(0, "", "")


# Looking at a run.


def test_search_prints_folder_costs_trials_and_result(cli, search_file, tmp_path):
    answer = cli("search", search_file(search={"trials": 2, "seeds": 1}, final={"baseline": False}))
    assert (answer.code, answer.err) == (0, "")
    run = tmp_path / "small"
    order = [f"Run: {run}", "cheapest", "[1/2] trial 0 complete", "on validation data", "on test data"]
    order.append(f"All results are in {run}")
    said = "".join(answer.out.split())  # tables and sentences are broken at the terminal's width
    at = 0
    for text in order:  # each after the one before it
        sought = "".join(text.split())
        assert sought in said[at:], text
        at = said.index(sought, at) + len(sought)
    assert "\x1b" not in answer.out
    names = {"card.md", "checkpoints", "front.png", "search.yaml", "students", "study.journal", "trials.csv", ".lock"}
    assert {path.name for path in run.iterdir()} == names
    assert list((run / "checkpoints").iterdir()) == []
    assert load_search_file(run / "search.yaml").search.trials == 2
    assert len((run / "trials.csv").read_text().splitlines()) >= 3


def test_status_as_text_and_json(cli, finished_run):
    answer = cli("status", finished_run)
    assert answer.code == 0
    assert "state: finished" in answer.out
    assert "None" not in answer.out
    assert re.search(r"^best quality: \d+\.\d\d %$", answer.out, flags=re.MULTILINE)
    found = cli("status", finished_run, "--json").json
    assert found["requested"] == found["trained"] == 4
    assert found["process"] is None
    assert found["best_quality"] > 0


def test_the_front_as_table_picture_and_json(cli, run_copy):
    (run_copy / "front.png").unlink()
    answer = cli("front", run_copy)
    assert (answer.code, answer.err) == (0, "")
    assert f"Picture: {run_copy / 'front.png'}" in answer.out
    assert (run_copy / "front.png").read_bytes().startswith(b"\x89PNG")
    found = cli("front", run_copy, "--json").json
    assert found
    assert [trial["costs"]["flops"] for trial in found] == sorted(trial["costs"]["flops"] for trial in found)
    for trial in found:
        assert trial["state"] == "complete"
        assert re.search(rf"^ +{trial['trial']} ", answer.out, flags=re.MULTILINE)


def test_the_front_within_another_budget_keeps_the_runs_own_picture(cli, run_copy):
    own = (run_copy / "front.png").read_bytes()
    cheapest = cli("front", run_copy, "--json").json[0]["costs"]["flops"]
    assert len(cli("front", run_copy, "--json", "--budget", f"flops={cheapest}").json) == 1
    assert cli("front", run_copy, "--json", "--budget", f"flops={cheapest - 1}").json == []
    answer = cli("front", run_copy, "--budget", "flops=50%", "--budget", "params=60k")
    assert answer.code == 0
    assert (run_copy / "front-flops-50-params-60k.png").read_bytes().startswith(b"\x89PNG")
    assert (run_copy / "front.png").read_bytes() == own
    assert "did you mean 'flops'?" in one_line(cli("front", run_copy, "--budget", "flop=2M"))


def test_a_trial_is_shown_with_its_result(cli, finished_run):
    seen = set()
    for number in range(cli("status", finished_run, "--json").json["trained"]):
        answer, found = cli("show", finished_run, number), cli("show", finished_run, number, "--json").json
        assert (answer.code, answer.err) == (0, "")
        assert found["trial"] == number
        assert found["hash"] in answer.out
        assert found["architecture"]["stem"] == 8
        assert (found["stop"] is not None) == (found["state"] == "pruned")
        seen.add(found["state"])
    assert "complete" in seen
    assert "has no trial 99; it has 0 to" in one_line(cli("show", finished_run, 99))


@pytest.mark.parametrize("command", ["front", "status", "evaluate", "export", "distill"])
def test_a_folder_without_a_run_is_refused(cli, tmp_path, command):
    assert "does not exist" in one_line(cli(command, tmp_path / "no"))
    assert "holds no run" in one_line(cli(command, tmp_path))
    assert sorted(tmp_path.rglob("*")) == []


def test_the_store_is_verified_and_a_changed_store_is_refused(cli, finished_run, teacher_folder, tmp_path):
    answer = cli("store", "verify", finished_run, "--samples", "64")
    assert answer.code == 0
    assert "64 stored answers" in answer.out
    found = cli("store", "verify", finished_run, "--json").json
    assert found["samples"] == 256
    assert found["same_class"] > 0.95
    store = teacher_folder.parent / "store"
    (records,) = store.glob("*/train.logits.npy")
    whole = records.read_bytes()
    try:
        records.write_bytes(whole[:-2] + b"\x00\x7c")
        assert "delete" in one_line(cli("store", "verify", finished_run))
    finally:
        records.write_bytes(whole)


# Students.


def test_a_student_is_evaluated(cli, finished_run):
    answer = cli("evaluate", finished_run)
    assert (answer.code, answer.err) == (0, "")
    assert "test samples" in answer.out
    found = cli("evaluate", finished_run, "--split", "val", "--json").json
    assert found["split"] == "val"
    assert found["count"] == 288
    assert 0 < found["accuracy"] <= 1
    assert found["retained"] > 0
    assert "known: train, val, test" in one_line(cli("evaluate", finished_run, "--split", "dev"))


def test_a_student_is_exported_to_the_given_file(cli, finished_run, tmp_path):
    import onnx

    target = tmp_path / "deep" / "student.onnx"
    found = cli("export", finished_run, "--runtime", "onnxruntime", "--output", target, "--json").json
    assert found["path"] == str(target)
    assert found["bytes"] == target.stat().st_size
    assert found["parity"]["same_predictions"] == 1
    assert found["latency"]["p50_ms"] > 0
    assert found["predicted_ms"] is None
    onnx.checker.check_model(onnx.load(target))
    assert "known: onnxruntime, pytorch" in one_line(cli("export", finished_run, "--runtime", "tflite"))


def test_another_trial_is_distilled_evaluated_and_exported(cli, run_copy):
    finalists = {int(folder.name[1:6]) for folder in (run_copy / "students").iterdir()}
    number = next(number for number in range(4) if number not in finalists)
    assert f"distill {run_copy} {number}" in one_line(cli("export", run_copy, number))
    answer = cli("distill", run_copy, number, "--epochs", "2")
    assert (answer.code, answer.err) == (0, "")
    assert "[2/2]" in answer.out
    assert "on 288 val samples" in answer.out
    assert list((run_copy / "checkpoints").iterdir()) == []
    labels = cli("distill", run_copy, number, "--epochs", "1", "--labels", "--json").json
    assert labels["student"].endswith("-labels")
    student = f"t{number:05}-2-epochs"
    found = cli("evaluate", run_copy, number, "--json").json
    assert Path(found["student"]).name == student
    answer = cli("export", run_copy, number)
    assert (answer.code, answer.err) == (0, "")
    assert (run_copy / "students" / student / "model.onnx").exists()
    assert cli("distill", run_copy, number, "--epochs", "1", "--quiet").out == ""
    assert "epochs" in one_line(cli("distill", run_copy, number, "--epochs", "0"))


# Teaching.


def test_teaching_reports_epochs_and_keeps_a_finished_teacher(cli, tmp_path):
    file = tmp_path / "teach.yaml"
    file.write_text(yaml.safe_dump(TEACH))
    answer = cli("teach", file)
    assert (answer.code, answer.err) == (0, "")
    assert re.fullmatch(r"(epoch [12]/2: .*\n){2}.*made: [\d.]+% on 359 test samples\n", answer.out), answer.out
    weights = (tmp_path / "made" / "model.safetensors").read_bytes()
    assert "finished teacher" in one_line(cli("teach", file))
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == weights


def test_teaching_in_json(cli, tmp_path):
    file = tmp_path / "teach.yaml"
    file.write_text(yaml.safe_dump({**TEACH, "training": {"epochs": 1, "batch_size": 256}}))
    found = cli("teach", file, "--json").json
    assert found["teacher"] == str(tmp_path / "made")
    assert (found["split"], found["count"]) == ("test", 359)


# Signals, while little is done.


@pytest.mark.slow
def test_teaching_stops_cleanly_on_either_signal_and_resumes(tmp_path):
    file = tmp_path / "teach.yaml"
    file.write_text(yaml.safe_dump({**TEACH, "training": {"epochs": 200, "batch_size": 256}}))
    command = [sys.executable, "-W", "error", "-m", "nas_distill.cli", "teach", str(file)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    reached = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        first = process.stdout.readline()
        assert int(re.match(r"epoch (\d+)/200", first)[1]) > reached
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert re.fullmatch(r"Stopped\. .*\bepoch\.\n", errors)
        reached = max(int(found) for found in re.findall(r"epoch (\d+)/200", first + rest))


def test_one_signal_leaves_main_before_work_has_begun(monkeypatch, capsys):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("nas_distill.study.open_run", interrupted, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main(["status", "anything"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "Stopped.\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_a_closed_pipe_stops_a_search_that_can_be_resumed(cli, search_file, tmp_path):
    command = f"{sys.executable} -m nas_distill.cli search {search_file(final={'baseline': False})} | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert found.stdout == f"Run: {tmp_path / 'small'}\n"
    assert found.stderr == ""
    assert cli("status", tmp_path / "small", "--json").json["state"] == "stopped"
    assert cli("search", tmp_path / "small.yaml", "--resume", "--quiet").code == 0
    assert cli("status", tmp_path / "small", "--json").json["trained"] == 4
