"""Worker process that runs methods of an object, so that user code cannot end the search."""

from __future__ import annotations

import atexit
import contextlib
import importlib.machinery
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import cloudpickle

from nas_distill.engine.death import ended_as, fault_in
from nas_distill.engine.fork_server import FORK, KILL, NUMBER
from nas_distill.utils.errors import NasDistillError, RunError, StorageError, first_line
from nas_distill.utils.references import import_path

_START_SECONDS = 300.0  # a busy machine may take long to import torch
_LOOK_SECONDS = 0.1


class CallError(NasDistillError):
    """A call in a worker process failed; its message is the cause, on one line."""


class ChildDiedError(CallError):
    """The worker process died of a call: it crashed, was killed, or ended itself."""


class CallTimeoutError(CallError):
    """A call took longer than allowed; its process was killed."""


class CallStoppedError(CallError):
    """A call was cancelled by its caller; its process was killed."""


class Child:
    """A worker process that holds a copy of ``target`` and calls its methods, one call at a time.

    The process is started by the first call, and again by the call after one that it died of. It has this process's
    environment, import paths and folder, ``threads`` torch threads, nothing on its standard streams, and ignores
    Ctrl-C. ``target`` may hold functions and classes defined in a notebook or script.

    Raises:
        RunError: ``target`` cannot be pickled.
    """

    def __init__(self, target: Any, *, threads: int = 1) -> None:
        self._target = pickled(target)
        self._threads = threads
        self._process: _Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self, method: str, *arguments: Any, seconds: float | None = None, ending: Callable[[], bool] | None = None
    ) -> Any:
        """Return ``target.method(*arguments)``, computed in the process.

        Args:
            method: of the target.
            arguments: picklable.
            seconds: after which the call is given up, from when the process is there; None waits without limit.
            ending: polled ten times per second; the call is cancelled once it is true.

        Raises:
            CallError: what was called raised; see the subclasses for a process that died, took too long or was ended.
            StorageError: what was called found a disk full.
        """
        if ending is not None and ending():
            raise CallStoppedError("it was asked to stop")
        started, process = self._process is None, self._process or self._start()
        self._process = process
        try:
            if started:
                _wait(process.talk, _START_SECONDS, ending)
                process.talk.recv_bytes()
            process.send(_request(method, arguments))
            _wait(process.talk, seconds, ending)
            kind, said = pickle.loads(process.talk.recv_bytes())
        except (EOFError, ConnectionError):
            cause = process.cause_of_death()
            self.close()
            raise ChildDiedError(cause) from None
        except BaseException:  # with an answer still to come, it is of no more use
            self.close()
            raise
        if kind is None:
            return said
        raise StorageError(said) if kind == "storage" else CallError(said)

    def close(self) -> None:
        """End the process, if there is one; the next call starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _start(self) -> _Process:
        process = _server().fork()
        process.send(
            pickle.dumps(
                {
                    "environment": dict(os.environ),
                    "folder": _folder(),
                    "paths": import_path(),
                    "threads": self._threads,
                    "target": self._target,
                }
            )
        )
        return process


def _request(method: str, arguments: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps((method, arguments))
    except (pickle.PicklingError, AttributeError, TypeError):  # a function of a notebook's, say
        return pickled((method, arguments))


def pickled(value: Any) -> bytes:
    """Return a value pickled for a worker process; what is defined in a notebook or script is written whole.

    Raises:
        RunError: it cannot be pickled.
    """
    try:
        with _unimportable_by_value():
            return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise RunError(
            f"The evaluation cannot be sent to worker processes ({first_line(error)}); make what it holds picklable."
        ) from error


def warm_up() -> None:
    """Start the process that workers are forked from, which takes seconds, while this one does something else."""
    _server()


def _wait(talk: Connection, seconds: float | None, ending: Callable[[], bool] | None) -> None:
    """Wait until something comes, or ends."""
    until = None if seconds is None else time.monotonic() + seconds
    while not talk.poll(_LOOK_SECONDS):
        if ending is not None and ending():
            raise CallStoppedError("it was asked to stop")
        if until is not None and time.monotonic() >= until:
            raise CallTimeoutError(f"it took longer than {_duration(seconds or 0.0)}")


class _Process:
    """One worker process, as the driver sees it."""

    def __init__(self, server: _Server, talk: Connection, status: _Status, fault: int) -> None:
        self.talk = talk
        self._status = status
        self._fault = fault
        self._end = weakref.finalize(self, _let_go, server, talk, status, fault)

    def send(self, message: bytes) -> None:
        """Send a message; the death of the process meanwhile shows when its answer is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.talk.send_bytes(message)

    def cause_of_death(self) -> str:
        """Return why the process ended."""
        trace = (
            "" if (code := self._status.read(2)) is None else os.pread(self._fault, 1 << 16, 0).decode(errors="replace")
        )
        return ended_as(code, fault_in(trace))

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._end()


class _Status:
    """The server's reports on a process: its number when it begins, and its exit code (``waitstatus_to_exitcode``)."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._numbers: list[int] = []

    def read(self, count: int, seconds: float = 10.0) -> int | None:
        """Return number 1 or 2; None where it does not come in time, or who would tell is gone."""
        end = time.monotonic() + seconds
        while len(self._numbers) < count:
            if not select.select([self.descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            content = os.read(self.descriptor, NUMBER.size)
            if len(content) < NUMBER.size:
                return None
            self._numbers += NUMBER.unpack(content)
        return self._numbers[count - 1]


def _let_go(server: _Server, talk: Connection, status: _Status, fault: int) -> None:
    """End a process and close what leads to it."""
    talk.close()
    number = status.read(1, _START_SECONDS)
    if number is not None:
        server.kill(number)
        status.read(2)
    os.close(status.descriptor)
    os.close(fault)


class _Server:
    """The fork server of this process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        home = str(Path(__file__).parents[2])
        paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nas_distill.engine.fork_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C, which a terminal sends to the whole group, is for the driver
            )
        self._control = ours

    @property
    def alive(self) -> bool:
        """True if it can be asked for workers."""
        return self._process.poll() is None

    def fork(self) -> _Process:
        """Return a new worker process."""
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        fault = os.memfd_create("fault")
        try:
            socket.send_fds(self._control, [FORK], [theirs.fileno(), writing, fault])
        finally:
            theirs.close()
            os.close(writing)
        return _Process(self, Connection(ours.detach()), _Status(reading), fault)

    def kill(self, process: int) -> None:
        """End a worker process."""
        with contextlib.suppress(OSError):  # it has gone, and its workers with it
            self._control.send(KILL + NUMBER.pack(process))

    def close(self) -> None:
        """End it, and with it every worker."""
        self._control.close()
        if self.owner == os.getpid():
            try:
                self._process.wait(2)  # it may be importing torch still
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_lock = threading.Lock()
_running: _Server | None = None


def _server() -> _Server:
    """Return this process's fork server, started if need be."""
    global _running
    with _lock:
        if _running is None or _running.owner != os.getpid() or not _running.alive:
            if _running is not None:
                _running.close()
            _running = _Server()
        return _running


@atexit.register
def _close_server() -> None:
    if _running is not None and _running.owner == os.getpid():
        _running.close()


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return "/"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes" if seconds >= 120 else f"{seconds:.3g} seconds"


@contextmanager
def _unimportable_by_value() -> Iterator[None]:
    """Within the block, cloudpickle writes what is defined in modules that another process cannot import, whole."""
    known = cloudpickle.list_registry_pickle_by_value()
    found = [module for module in list(sys.modules.values()) if _is_unimportable(module, known)]
    for module in found:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in found:
            cloudpickle.unregister_pickle_by_value(module)


def _is_unimportable(module: Any, known: set[str]) -> bool:
    name, file = getattr(module, "__name__", None), getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or not isinstance(name, str) or not isinstance(file, str) or name in known:
        return False
    if name == "__main__" or file.startswith((sys.prefix, sys.base_prefix)) or sys.modules.get(name) is not module:
        return False
    return not _found_at(name, file)


def _found_at(name: str, file: str) -> bool:
    """Return whether importing ``name`` by ``sys.path`` finds ``file``."""
    folders: Sequence[str] | None = None
    parts = name.split(".")
    for place in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: place + 1]), folders)
        if spec is None:
            return False
        folders = spec.submodule_search_locations
        if folders is None and place + 1 < len(parts):
            return False
    return spec is not None and spec.origin is not None and Path(spec.origin) == Path(file)
