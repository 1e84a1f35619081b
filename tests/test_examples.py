"""The examples run as they are, each in a folder of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(example, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / "examples" / example, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example):
    assert len(example.read_text().splitlines()) <= 40


def test_a_finished_run_is_read():
    done = run("read_run.py", ROOT / "runs" / "example")

    assert done.returncode == 0, done.stderr
    assert "flops" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(960)  # minutes where other work takes the cores
@pytest.mark.parametrize("example", [path.name for path in EXAMPLES if path.stem != "read_run"])
def test_an_example_runs(example, tmp_path):
    folder = tmp_path / "run"
    done = run(example, *(("--folder", folder) if example == "cluster.py" else (folder,)))

    assert done.returncode == 0, done.stderr
    assert (folder / "card.md").is_file()
    assert any((folder / "students").iterdir())
