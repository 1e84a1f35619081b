"""Workers that may be on another machine look for the driver's run folder first."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from pathlib import Path

import pytest

from nas_distill.engine.backends import shared
from nas_distill.engine.backends.shared import NAME, SharedFolder
from nas_distill.utils.errors import StorageError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.SharedFolder.check, "__defaults__", (0.0,))


def test_a_process_that_sees_the_folder_goes_on(tmp_path: Path) -> None:
    marked = SharedFolder.mark(tmp_path)
    pickle.loads(pickle.dumps(marked)).check()
    marked.unmark()
    assert list(tmp_path.iterdir()) == []
    marked.unmark()


@pytest.mark.parametrize("content", [None, "", "of another search", b"\xff\xfe"])
def test_another_folder_of_the_same_path_is_named(tmp_path: Path, content: str | bytes | None) -> None:
    marked = SharedFolder.mark(tmp_path)
    (tmp_path / NAME).unlink()
    if content is not None:
        (tmp_path / NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StorageError) as caught:
        marked.check()
    assert str(tmp_path) in str(caught.value)
    assert socket.gethostname() in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slow_file_system_is_waited_for(tmp_path: Path) -> None:
    marked = SharedFolder.mark(tmp_path)
    hidden = (tmp_path / NAME).rename(tmp_path / "hidden")
    threading.Timer(0.2, lambda: hidden.rename(tmp_path / NAME)).start()
    started = time.monotonic()
    marked.check(patience=60.0)
    assert time.monotonic() > started


def test_a_relative_folder_is_sent_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    marked = SharedFolder.mark(Path("run"))
    monkeypatch.chdir("/")
    marked.check()
