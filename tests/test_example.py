"""The run that is committed: what docs, README and notebook stand on."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import nas_distill as nd
from nas_distill.cli import app
from nas_distill.config import load_search_file
from nas_distill.study.problem import resolve

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "runs" / "example"
STUDENT = {"model.safetensors", "architecture.json", "model.onnx"}
MOST_BYTES = 2_500_000
UNKEPT = shutil.ignore_patterns("*.log", ".lock", "checkpoints", "*-labels", "front-*.png")  # as .gitignore has it


@pytest.fixture(scope="module")
def run():
    return nd.open_run(EXAMPLE)


@pytest.fixture
def clone(tmp_path):
    """The run as a fresh clone has it."""
    return shutil.copytree(EXAMPLE, tmp_path / "example", ignore=UNKEPT)


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None, result.exception
    return result.output


def student_of(run, entry):
    """The student of a finalist; the uniform network need not be a trial."""
    return (run.uniform() if entry.trial is None else run.trial(entry.trial)).student()


def test_it_is_a_finished_run_of_the_quick_start(run):
    assert run.finished
    assert run.status()["trained"] == run.config.search.trials
    quickstart = resolve(load_search_file(ROOT / "runs" / "quickstart.yaml"), plan=EXAMPLE / "plan.json").config
    assert run.config == quickstart, "runs/quickstart.yaml has changed; 'make example' makes the run again"


def test_its_students_were_written_before_provenance_was_and_are_read(run):
    for entry in run.finalists():
        student = student_of(run, entry)
        assert (student.provenance.kind, student.provenance.quality) == ("final", entry.full)


def test_a_clone_holds_what_a_run_leaves_and_is_small(clone):
    names = {path.name for path in clone.iterdir()}
    assert names == {
        *("search.yaml", "study.journal", "plan.json", "allocation.json"),
        *("trials.csv", "front.png", "card.md", "students"),
    }
    run = nd.open_run(clone)
    finalists = [entry for entry in run.finalists() if entry.full is not None]
    assert len(finalists) == len(list((clone / "students").iterdir()))
    assert len(finalists) - run.config.final.count in (0, 1)  # the uniform network may be one more
    for entry in finalists:
        folder = student_of(run, entry).folder
        assert {path.name for path in folder.iterdir()} == STUDENT
    assert sum(path.stat().st_size for path in clone.rglob("*") if path.is_file()) < MOST_BYTES


def test_what_is_not_kept_is_ignored_by_git():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert ignored.index("!runs/example/") > ignored.index("runs/*/")
    inside = {".lock", "checkpoints/", "students/*-labels/", "front-*.png"}
    assert {"*.log", *(f"runs/example/{name}" for name in inside)} <= set(ignored)


def test_the_readme_shows_its_picture_and_its_teacher(run):
    shown = ROOT / "docs" / "quickstart-front.png"
    assert shown.read_bytes() == (EXAMPLE / "front.png").read_bytes(), "'make example' copies it"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"a teacher of ([\d.]+) M multiply-adds", readme)[1])
    assert stated == pytest.approx(run.report().teacher.costs["flops"] / 1e6, abs=0.5)


def test_the_readmes_five_lines_load_its_student(run, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = [text for text in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "load_state_dict" in text]
    out = tmp_path / "logits.pt"
    shape = run.problem.input_shape
    asked = f"\nimport torch\ntorch.save(model.eval()(torch.ones(1, *{shape})).detach(), {str(out)!r})"
    folder = run.best().student().folder
    subprocess.run(
        [sys.executable, "-c", snippet + asked], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    expected = nd.load_student(folder)(torch.ones(1, *shape))
    assert torch.allclose(torch.load(out, weights_only=True), expected, atol=1e-5)


def test_commands_that_read_work_on_it(run, clone):
    assert "finished" in call("status", clone)
    front = json.loads(call("front", clone, "--json"))
    assert [entry["trial"] for entry in front] == [record.number for record in run.front_records()]
    student = run.best().record
    assert student.architecture.hash in call("show", clone, student.number)
    assert "Picture: " in call("front", clone, "--budget", "flops=2M")
