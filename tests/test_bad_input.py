"""Invalid input: one sentence per error, exit code 2, and finished work is kept."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nas_distill.engine.backends.inline import InProcessBackend

pytestmark = pytest.mark.usefixtures("one_thread", "no_export", "_own_modules")

PARAMETERS = {"width": [8, 16], "depth": [1, 2]}
BUILDER = """
from torch import nn

def build(width, depth, input_shape, num_classes):
    {body}
    layers = [nn.Conv2d(input_shape[0], width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, {layer}nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


@pytest.fixture
def _own_modules():
    """Remove the modules that a test imported from its own folder."""
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("users_"):
            del sys.modules[name]


@pytest.fixture
def refused(cli, tmp_path) -> Callable[..., str]:
    """Run a search that must be refused, and return the sentence."""

    def run(file: Path, *arguments: str) -> str:
        answer = cli("search", file, "--quiet", *arguments)
        assert answer.code == 2, answer
        assert answer.out == ""
        assert answer.err.count("\n") == 1, answer.err
        assert answer.err.startswith("nas-distill: ")
        assert answer.err.endswith((".\n", "?\n"))
        assert "Traceback" not in answer.err
        return answer.err

    return run


def nothing_was_begun(tmp_path: Path) -> bool:
    return not list(tmp_path.rglob("study.journal"))


def own_space(tmp_path: Path, body: str = "pass", layer: str = "", name: str = "users_builder") -> dict[str, Any]:
    (tmp_path / f"{name}.py").write_text(BUILDER.format(body=body, layer=layer))
    return {"builder": f"{name}:build", "parameters": PARAMETERS}


# The search file.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"serach": {"trials": 3}}, "unknown key 'serach'; did you mean 'search'?"),
        ({"search": {"trails": 3}}, "unknown key 'search.trails'; did you mean 'trials'?"),
        ({"score": {"optimizer": {"learning_rate": 1}}}, "unknown key 'score.optimizer.learning_rate'"),
        ({"search": {"trials": "many"}}, "'search.trials' must be a whole number (given: 'many')."),
        ({"search": {"trials": 0}}, "'search.trials' must be greater than or equal to 1 (given: 0)."),
        ({"score": {"epochs": [1, 2]}}, "'score.epochs' must be a number (given: [1, 2])."),
        ({"search": {"sampler": "tpa"}}, "search.sampler: there is no sampler 'tpa'; did you mean 'tpe'?"),
        ({"search": {"sampler": {"name": "tpe", "start": 1}}}, "did you mean 'startup'?"),
        ({"search": {"sampler": "nowhere:Sampler"}}, "module 'nowhere' cannot be imported"),
        ({"search": {"sampler": "optuna.samplers:CmaEsSampler"}}, "search.sampler: 'optuna.samplers:CmaEsSampler'"),
        ({"search": {"sampler": {"name": "optuna.samplers:TPESampler", "group": 3}}}, "'group'"),
        ({"search": 3}, "'search' must be a mapping"),
        ({"space": ["resnet"]}, "'space'"),
        ({"budget": {"flops": None}}, "'budget.flops'"),
        ({"budget": {"flop": "2M"}}, "unknown cost 'flop'; did you mean 'flops'?"),
        ({"budget": {"flops": "2Mi"}}, "unit"),
        ({"budget": {"latency_ms": "2M"}}, "unit"),
        ({"search": {"costs": ["flops", "energy"]}}, "unknown cost 'energy'"),
        ({"search": {"scalar": {"cost": "flops", "target": "half"}}}, "'half'"),
        ({"space": "resnt"}, "did you mean 'resnet'?"),
        ({"space": {"builder": "nas_distill.models.resnet:build", "parameters": {"stem": {"itn": [8, 16]}}}}, "stem"),
        ({"data": "digit"}, "did you mean 'digits'?"),
        ({"teacher": "fashion-resnt"}, "did you mean 'fashion-resnet'?"),
        ({"data": None}, "'data'"),
        ({"device": "gpu0"}, "gpu0"),
    ],
    ids=str,
)
def test_an_invalid_search_file_names_the_key_and_similar_ones(refused, search_file, tmp_path, changes, expected):
    assert expected in refused(search_file(**changes))
    assert nothing_was_begun(tmp_path)


def test_a_missing_key_is_named(refused, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("data: digits\nspace: resnet\n")
    assert f"{file}: 'teacher' is missing." in refused(file)


def test_a_missing_search_file_is_named(refused, tmp_path):
    assert f"{tmp_path / 'none.yaml'} does not exist." in refused(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("data: [digits\n", "line 2"), ("", "holds no keys"), ("- a\n- b\n", "holds no keys"), ("a: 1\na: 2\n", "twice")],
)
def test_a_file_that_is_not_a_search_file_is_refused(refused, tmp_path, text, expected):
    file = tmp_path / "small.yaml"
    file.write_text(text)
    assert expected in refused(file)


def test_binary_garbage_is_refused(refused, tmp_path):
    file = tmp_path / "small.yaml"
    for seed in range(3):
        file.write_bytes(np.random.default_rng(seed).bytes(2000))
        assert "cannot be read" in refused(file)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "a\nb", "a/b", ".", ".."])
def test_a_name_that_is_not_a_valid_folder_name_is_refused(refused, search_file, name):
    assert "name" in refused(search_file(name=name))


@pytest.mark.parametrize(
    "parameters",
    [
        {"width": {"repeat": 10**9, "of": [1, 2]}},
        {"width": {"repeat": 10**4, "of": {"inner": {"repeat": 10**4, "of": [1, 2]}}}},
        {"count": {"int": [1, 10**12]}, "width": {"repeat": "count", "of": [1]}},
    ],
    ids=str,
)
def test_a_space_without_bounds_is_refused(refused, search_file, parameters):
    space = {"builder": "nas_distill.models.resnet:build", "parameters": parameters}
    assert "the largest architecture would have" in refused(search_file(space=space))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": "none.npz"}, "none.npz does not exist"),
        ({"data": {"name": "fashion-mnist", "root": "nowhere"}}, "nowhere does not exist"),
        ({"space": "none.yaml"}, "none.yaml"),
        ({"teacher": {"builder": "torch.nn:Flatten", "weights": "none.safetensors"}}, "none.safetensors do not exist"),
    ],
    ids=str,
)
def test_a_missing_file_is_named(refused, search_file, changes, expected):
    assert expected in refused(search_file(**changes))


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        ("users_none:build", "module 'users_none' cannot be imported"),
        ("nas_distill.models.resnet:biuld", "has no 'biuld'; did you mean 'build'?"),
        ("resnet", "package.module:function"),
    ],
)
@pytest.mark.parametrize("section", ["space", "teacher"])
def test_an_unknown_builder_is_named(refused, search_file, tmp_path, section, builder, expected):
    given = {"builder": builder, "parameters": PARAMETERS} if section == "space" else {"builder": builder}
    said = refused(search_file(**{section: given}))
    assert expected in said
    assert nothing_was_begun(tmp_path)


# Data and teacher.


def arrays(count=60, classes=10, shape=(1, 8, 8)):
    rng = np.random.default_rng(0)
    return rng.random((count, *shape), dtype=np.float32), np.arange(count) % classes


def save(tmp_path, **content):
    np.savez(tmp_path / "own.npz", **content)
    return {"name": "own.npz"}


def test_a_teacher_of_other_classes_is_refused(refused, search_file, tmp_path):
    x, y = arrays(classes=7)
    said = refused(search_file(data=save(tmp_path, x=x, y=y)))
    assert "has 10 classes" in said
    assert "has 7" in said
    assert nothing_was_begun(tmp_path)


def test_a_teacher_for_samples_of_another_shape_is_refused(refused, search_file, tmp_path):
    x, y = arrays(shape=(3, 8, 8))
    assert "(1, 8, 8)" in (said := refused(search_file(data=save(tmp_path, x=x, y=y)))) or "(3, 8, 8)" in said


def test_labels_out_of_range_are_refused(refused, search_file, tmp_path):
    x, y = arrays()
    said = refused(search_file(data=save(tmp_path, x=x, y=np.where(y == 3, -1, y))))
    assert "-1" in said
    assert "0" in said


def test_an_empty_split_is_refused(refused, search_file, tmp_path):
    x, y = arrays()
    data = save(tmp_path, x_train=x, y_train=y, x_val=x[:0], y_val=y[:0])
    assert "validation split is empty" in refused(search_file(data=data))


def test_nan_in_the_data_is_refused_with_its_place(refused, search_file, tmp_path):
    x, y = arrays()
    x[41, 0, 3, 3] = np.nan
    data = save(tmp_path, x_train=x, y_train=y, x_val=x[:20], y_val=y[:20])
    assert "sample 41 holds NaN or infinity" in refused(search_file(data=data))


def test_a_data_function_that_raises_is_named(refused, search_file, tmp_path):
    (tmp_path / "users_data.py").write_text("def load():\n    raise KeyError('pixels')\n")
    said = refused(search_file(data="users_data:load"))
    assert "users_data:load failed" in said
    assert "pixels" in said


@pytest.fixture
def weights(teacher_arguments, tmp_path):
    """A teacher section with weights of the user's own, and the file."""

    def section(name: str) -> tuple[dict[str, Any], Path]:
        content = {"builder": "nas_distill.models.resnet:build", "arguments": teacher_arguments, "weights": name}
        return {**content, "store": str(tmp_path / "store")}, tmp_path / name

    return section


@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_damaged_weights_are_refused(refused, search_file, tmp_path, weights, teacher_folder, name):
    section, file = weights(name)
    state = load_file(teacher_folder / "model.safetensors")
    (save_file if file.suffix == ".safetensors" else torch.save)(state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert str(file) in refused(search_file(teacher=section))
    file.write_bytes(b"nothing of the kind")
    assert str(file) in refused(search_file(teacher=section))
    assert nothing_was_begun(tmp_path)


def test_weights_of_another_network_are_refused(refused, search_file, weights, teacher_folder):
    section, file = weights("own.safetensors")
    state = load_file(teacher_folder / "model.safetensors")
    name = next(iter(state))
    save_file({**state, name: torch.zeros(3)}, file)
    assert name in refused(search_file(teacher=section))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "it ran")


@pytest.mark.parametrize("torches", [True, False], ids=["torch.save", "pickle.dump"])
def test_code_in_a_pickle_is_refused_and_not_run(refused, search_file, tmp_path, weights, torches):
    section, file = weights("own.pt")
    content = {"weight": torch.zeros(2), "bomb": Bomb(tmp_path / "ran")}
    if torches:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    said = refused(search_file(teacher=section))
    assert str(file) in said
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False) if torches else pickle.loads(file.read_bytes())
    assert (tmp_path / "ran").exists(), "the bomb of this test is none"


def test_a_teacher_that_answers_with_nan_is_refused(refused, search_file, weights, teacher_folder):
    section, file = weights("own.safetensors")
    state = load_file(teacher_folder / "model.safetensors")
    save_file({name: value * float("nan") for name, value in state.items()}, file)
    assert "NaN" in refused(search_file(teacher=section))


# Budget.


def test_an_infeasible_budget_names_the_binding_limit_and_the_cheapest_candidate(refused, search_file, cli, tmp_path):
    found = cli("search", search_file(), "--dry-run", "--json").json
    cheapest = next(row["cheapest"] for row in found["rows"] if row["name"] == "flops")
    said = refused(search_file(budget={"params": "10M", "flops": cheapest - 1}))
    assert "none of 12 candidates fits the budget: 'flops'" in said
    assert "binds" in said
    assert f"cheapest found has {cheapest / 1000:.3g} k" in said
    assert nothing_was_begun(tmp_path)
    assert "none of 12" in refused(search_file(budget={"flops": cheapest - 1}), "--dry-run")


# Builders.


def finished(cli, file) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    answer = cli("search", file, "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    run = file.with_suffix("")
    status = cli("status", run, "--json").json
    total = sum(status.get(state, 0) for state in ("complete", "pruned", "failed", "over_budget", "duplicate"))
    return [cli("show", run, number, "--json").json for number in range(total)], status


@pytest.mark.parametrize(
    ("body", "layer", "cause"),
    [
        ("assert width != 16, 'no sixteen today'", "", "no sixteen today"),
        ("pass", "*([nn.Linear(3, 4)] if width == 16 else []), ", "shape"),
    ],
    ids=["builder", "forward"],
)
def test_a_builder_that_fails_for_some_candidates_fails_only_those(cli, search_file, tmp_path, body, layer, cause):
    space = own_space(tmp_path, body, layer)
    budget = {"params": "1M"}
    search = {"trials": 4, "seeds": 2, "pruning": {"rule": "none"}}
    trials, status = finished(cli, search_file(space=space, budget=budget, search=search, final={"baseline": False}))
    for trial in [trial for trial in trials if trial["state"] != "duplicate"]:
        if trial["architecture"]["width"] == 16:
            assert trial["state"] == "failed"
            assert cause in trial["cause"]
        else:
            assert trial["state"] == "complete"
    assert status["trained"] == 4
    assert (status["failed"], status["complete"]) == (2, 2)


def test_if_the_builder_fails_for_all_candidates_the_first_cause_is_reported(refused, search_file, tmp_path):
    said = refused(search_file(space=own_space(tmp_path, "raise ValueError('not today')"), budget={}))
    assert "could be built" in said
    assert "not today" in said
    assert nothing_was_begun(tmp_path)


def test_if_every_training_fails_the_first_cause_is_reported_and_recorded(cli, refused, search_file, tmp_path):
    (tmp_path / "users_moody.py").write_text(
        """
from torch import nn

class Moody(nn.Sequential):
    def forward(self, x):
        if self.training:
            raise RuntimeError("I will not learn")
        return super().forward(x)

def build(width, depth, input_shape, num_classes):
    return Moody(nn.Flatten(), nn.Linear(64, width * depth), nn.Linear(width * depth, num_classes))
"""
    )
    file = search_file(space={"builder": "users_moody:build", "parameters": PARAMETERS}, budget={})
    said = refused(file)
    assert "I will not learn" in said


def test_a_loss_that_is_not_finite_fails_only_that_trial(cli, search_file, tmp_path):
    (tmp_path / "users_nan.py").write_text(
        """
from torch import nn

class Cracked(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (float("nan") if self.training else 1.0)

def build(width, depth, input_shape, num_classes):
    last = Cracked if width == 16 else nn.Linear
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width * depth), last(width * depth, num_classes))
"""
    )
    space = {"builder": "users_nan:build", "parameters": PARAMETERS}
    trials, status = finished(cli, search_file(space=space, budget={}, final={"baseline": False}))
    assert {trial["architecture"]["width"] for trial in trials if trial["state"] == "failed"} == {16}
    assert all("NaN" in trial["cause"] for trial in trials if trial["state"] == "failed")
    assert status["trained"] == 4


# The run folder.

HOLD = """
import sys, time
from nas_distill.runs.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def unfinished(finished_run, search_file, tmp_path) -> tuple[Path, Path]:
    """A search file and its run, without the last lines of the journal."""
    run = Path(shutil.copytree(finished_run, tmp_path / "small"))
    lines = (run / "study.journal").read_bytes().splitlines(keepends=True)
    (run / "study.journal").write_bytes(b"".join(lines[: len(lines) // 2]))
    return search_file(), run


def test_a_run_in_use_is_refused_with_its_process_and_can_be_read(cli, refused, unfinished):
    file, run = unfinished
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert f"{run} is in use by process {holder.pid}" in refused(file, "--resume")
        found = cli("status", run, "--json").json
        assert (found["state"], found["process"]) == ("running", holder.pid)
    finally:
        holder.kill()
        holder.communicate()
    assert cli("status", run, "--json").json["state"] == "stopped"


def test_a_truncated_last_line_is_repaired_without_loss(cli, unfinished):
    file, run = unfinished
    whole = (run / "study.journal").read_bytes()
    (run / "study.journal").write_bytes(whole + b'{"op_code": 8, "worker_id": "x", "tr')
    before = cli("status", run, "--json").json
    answer = cli("search", file, "--resume", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert (run / "study.journal").read_bytes().startswith(whole)
    after = cli("status", run, "--json").json
    assert (after["state"], after["trained"]) == ("finished", 4)
    assert before["trained"] < 4


def test_a_journal_damaged_in_the_middle_is_refused_with_its_line_and_unchanged(cli, refused, unfinished):
    file, run = unfinished
    lines = (run / "study.journal").read_bytes().splitlines(keepends=True)
    lines[6] = lines[6][: len(lines[6]) // 2] + b"\n"
    (run / "study.journal").write_bytes(b"".join(lines))
    assert "study.journal is torn at line 7" in refused(file, "--resume")
    assert (run / "study.journal").read_bytes() == b"".join(lines)
    answer = cli("status", run)
    assert answer.code == 2
    assert "torn at line 7" in answer.err


def test_a_journal_without_a_line_is_refused_with_its_number_and_unchanged(cli, refused, unfinished):
    file, run = unfinished
    lines = (run / "study.journal").read_bytes().splitlines(keepends=True)
    del lines[9]
    (run / "study.journal").write_bytes(b"".join(lines))
    assert "line 10 is missing" in refused(file, "--resume")
    assert (run / "study.journal").read_bytes() == b"".join(lines)
    for command in ("status", "front", "show"):
        answer = cli(command, run, *(["0"] if command == "show" else []))
        assert answer.code == 2
        assert "line 10 is missing" in answer.err
        assert "Traceback" not in answer.err


def test_a_run_of_another_search_is_not_resumed(refused, unfinished, search_file):
    _, run = unfinished
    before = (run / "study.journal").read_bytes()
    assert "was begun with another 'score'" in refused(search_file(score={"batch_size": 64}), "--resume")
    assert "another 'final'" in refused(search_file(final={"epochs": 2}), "--resume")
    assert "another 'budget'" in refused(search_file(), "--resume", "--budget", "params=9k")
    assert (run / "study.journal").read_bytes() == before


def test_a_folder_with_other_files_is_not_written_to(refused, search_file, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "search.yaml").write_text("mine: true\n")
    assert "contains 'search.yaml'" in refused(search_file())
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["search.yaml"]


def test_a_folder_that_cannot_be_created_is_named(refused, search_file, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "run") in refused(search_file(), "--folder", str(tmp_path / "file" / "run"))


# A full disk.


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of a given size in bytes; a second call enlarges it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(kilobytes: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize("kilobytes", [130, *(pytest.param(size, marks=pytest.mark.slow) for size in (12, 40, 110))])
def test_a_full_disk_ends_the_search_and_keeps_finished_work(cli, refused, search_file, small_disk, kilobytes):
    disk, file = small_disk(kilobytes), search_file(search={"pruning": {"rule": "none"}}, final={"baseline": False})
    run = disk / "run"
    said = refused(file, "--folder", str(run))
    assert "full" in said or "No space left on device" in said
    assert str(run) in said
    kept = cli("status", run, "--json").json if (run / "search.yaml").exists() else {"trained": 0}
    assert kept.get("failed", 0) == 0, "a full disk is no fault of a candidate"
    small_disk(10_000)
    answer = cli("search", file, "--folder", run, "--resume", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    found = cli("status", run, "--json").json
    assert found["complete"] == found["trained"] == found["requested"]
    trained = [trial["hash"] for trial in (cli("show", run, n, "--json").json for n in range(kept["trained"]))]
    assert len(trained) == len(set(trained))


def test_a_checkpoint_that_cannot_be_written_interrupts_its_trial(cli, refused, search_file, tmp_path, monkeypatch):
    """The error of a full disk, raised where the system would raise it."""
    monkeypatch.setattr("nas_distill.engine.backends.InlineBackend", lambda **_: InProcessBackend())
    real, full = Path.write_bytes, True

    def write_bytes(self, data):
        if full and "state.pt" in self.name and "t00001" in str(self):
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    file = search_file(search={"pruning": {"rule": "none"}}, final={"baseline": False})
    said = refused(file)
    assert "t00001" in said
    assert "No space left on device" in said
    found = cli("status", tmp_path / "small", "--json").json
    assert (found["complete"], found["interrupted"]) == (1, 1)
    full = False
    assert cli("search", file, "--resume", "--quiet").code == 0
    found = cli("status", tmp_path / "small", "--json").json
    assert (found["complete"], found["interrupted"], found["trained"]) == (4, 1, 4)


def test_a_read_only_run_folder_is_named(cli, finished_run, tmp_path, monkeypatch):
    copied = Path(shutil.copytree(finished_run, tmp_path / "small"))

    def forbidden(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", forbidden)
    answer = cli("distill", copied, "0", "--epochs", "1", "--quiet", "--trust")
    assert answer.code == 2
    assert "Permission denied" in answer.err
    assert answer.err.count("\n") == 1
