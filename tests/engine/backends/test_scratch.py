"""Temporary folders of searches that were killed, and of those that live."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nas_distill.engine.backends import isolation as module
from nas_distill.engine.backends.isolation import Scratch, sweep

HOLDER = """
import sys
from pathlib import Path
from nas_distill.engine.backends.isolation import Scratch
scratch = Scratch()
scratch.note_session(Path(sys.argv[1]))
print(scratch.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(module, "_YOUNG_SECONDS", -1.0)
    return folder


def hold(temporary: Path, session: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a scratch folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(session)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_and_nothing_else(temporary, tmp_path):
    sessions = [temporary / "ray" / f"session_{name}" for name in ("dead", "alive", "other")]
    for session in sessions:
        session.mkdir(parents=True)
    foreign, bare = temporary / "other-folder", temporary / "nas_distill-without-lock"
    foreign.mkdir()
    bare.mkdir()
    (dead, dead_folder), (alive, alive_folder) = hold(temporary, sessions[0]), hold(temporary, sessions[1])
    dead.kill()
    dead.communicate()
    sweep()
    assert not dead_folder.exists()
    assert alive_folder.exists()
    assert [session.exists() for session in sessions] == [False, True, True]
    assert foreign.exists()
    assert bare.exists()
    alive.communicate("")


def test_a_folder_that_has_just_been_made_is_left(temporary, tmp_path, monkeypatch):
    dead, folder = hold(temporary, temporary / "ray" / "session_x")
    dead.kill()
    dead.communicate()
    monkeypatch.setattr(module, "_YOUNG_SECONDS", 60.0)
    sweep()
    assert folder.exists()


def test_only_a_session_of_rays_is_removed_with_it(temporary, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    scratch = Scratch()
    scratch.note_session(mine)
    scratch.close()
    assert mine.exists()
    assert not scratch.path.exists()
    sweep()
