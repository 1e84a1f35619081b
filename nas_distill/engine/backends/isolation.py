"""Isolation of a backend: its temporary folder and its network address."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nas_distill.engine.backends.silence import environment
from nas_distill.utils.errors import RunError, first_line

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


CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def on_loopback(constants: Any) -> Iterator[None]:
    """Within the block, Ray starts on 127.0.0.1: its servers and workers then listen there, not on all interfaces.

    On Linux, Ray replaces a loopback address that it is given (``_node_ip_address``) by that of an outer interface,
    unless clusters are switched off, as they are by default on macOS and Windows. ``constants`` is Ray's module of
    constants, which it has read from the environment; the processes that it starts read the environment again.
    """
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment({CLUSTER: "0"}):
            yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def check_address(address: str) -> None:
    """Check an address at once, which Ray would do after minutes, with lines of its own on the terminal.

    Raises:
        RunError: nothing listens at ``address``, or it is one through which a search cannot be led.
    """
    if "://" in address:
        raise RunError(
            f"'{address}' is the address of Ray's client server, through which a search cannot be led; give that of "
            "the cluster's head, such as 10.0.0.1:6379, on a machine of the cluster."
        )
    host, colon, port = address.rpartition(":")
    if not colon:  # a word of Ray's, such as "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RunError(
            f"No Ray cluster answers at '{address}' ({first_line(error)}); start one with 'ray start --head', or leave "
            "'search.address' out to search on this machine."
        ) from error
