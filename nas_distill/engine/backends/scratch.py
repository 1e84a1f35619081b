"""The temporary folder of a backend, which a later search removes if its process was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "nas_distill-"
_LOCK, _SESSION = "lock", "ray-session"
_YOUNG_SECONDS = 60.0  # between making a folder and locking it, its process has nothing to show that it lives


class Scratch:
    """A temporary folder, and the folder of Ray's session that goes with it; locked as long as its process lives.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def note_session(self, folder: Path) -> None:
        """Remember the folder of a session of Ray's that this process has started."""
        with suppress(OSError):  # on a full disk it stays
            (self.path / _SESSION).write_text(str(folder), encoding="utf-8")

    def close(self) -> None:
        """Remove both folders."""
        _remove(self.path)
        os.close(self._lock)


def sweep() -> None:
    """Remove the folders of this user's processes that were killed."""
    with suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):
                _sweep(folder)


def _sweep(folder: Path) -> None:
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if time.time() - os.fstat(lock).st_mtime < _YOUNG_SECONDS:
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    with suppress(OSError, UnicodeDecodeError):
        session = Path((folder / _SESSION).read_text(encoding="utf-8"))
        ours = session.is_dir() and not session.is_symlink() and session.stat().st_uid == os.getuid()
        if ours and session.name.startswith("session_"):
            shutil.rmtree(session, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
