"""The files that the page on extending shows, run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import nas_distill as nd

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
MAIN = "my_search.py"


def files():
    """Every block of code that begins with its file's name: name -> content."""
    found = {}
    for text in re.findall(r"^```\w+\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        name = re.match(r"# (\w+\.\w+)\n", text)
        assert name is not None, f"a block begins with {text[:40]!r} and not with the name of its file"
        assert name[1] not in found
        found[name[1]] = text
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extending")
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, MAIN], cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return nd.open_run(folder / "my_run")


def test_every_file_of_the_page_is_used():
    shown = files()
    everything = "\n".join(shown.values())
    for name in set(shown) - {MAIN}:
        stem = Path(name).stem
        assert re.search(rf'"{name}"|\b{stem}:\w+|from {stem} import', everything), f"nothing uses {name}"


def test_the_search_ends_with_a_student(run):
    assert sum(record.trained for record in run.records) == 5
    assert (run.folder.path / "card.md").is_file()
    assert any((run.folder.path / "students").iterdir())


def test_students_are_judged_by_the_task_of_the_page(run):
    assert run.task == "my_tasks:Grades"
    assert "graded accuracy" in (run.folder.path / "card.md").read_text(encoding="utf-8")


def test_the_sampler_of_the_page_proposes(run):
    assert yaml.safe_load(run.folder.search_yaml.read_text(encoding="utf-8"))["search"]["sampler"] == {
        "name": "my_samplers:Climber",
        "change": 0.4,
    }
    assert [record.origin for record in run.records].count("sampler") >= 3


def test_the_cost_of_the_page_is_limited_and_minimised(run):
    assert run.config.search.objectives == ("flops", "energy_nj")
    limit = run.budget.limits["energy_nj"].high
    assert all(record.costs["energy_nj"] <= limit for record in run.records if record.trained)
    assert run.metadata.teacher.costs["energy_nj"] == pytest.approx(limit / 0.6)


def test_the_runtime_of_the_page_runs_the_student(run):
    exports = list(run.metadata.exports.students.values())
    assert exports  # the winner's, and that of the network without a search where the search finds another
    for exported in exports:
        assert exported.runtime == "ONNX reference"
        assert exported.latency.conditions.startswith("ONNX reference ")


def test_the_loss_and_the_space_of_the_page_are_searched(run):
    resolved = yaml.safe_load(run.folder.search_yaml.read_text(encoding="utf-8"))
    assert [(term["name"], term.get("beta")) for term in resolved["score"]["loss"]][1] == ("my_losses:smooth_l1", 2.0)
    assert len({record.architecture.values["width"] for record in run.records}) > 1
