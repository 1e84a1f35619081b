"""Fork server: a process with torch imported that forks workers in milliseconds."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Any

from nas_distill.utils.errors import StorageError, failure_message
from nas_distill.utils.files import disk_error_message, full_disk_error
from nas_distill.utils.references import search_first

# Imported once, before the first fork; a worker imports whatever else it needs.
PRELOADED = ("nas_distill.engine.evaluator", "nas_distill.costs.model", "nas_distill.costs.timing", "fvcore.nn")
FORK, KILL, READY = b"f", b"k", b"r"
NUMBER = struct.Struct("q")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main(descriptor: int) -> None:
    """Fork workers as the socket ``descriptor`` asks, until its other end is closed."""
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PRELOADED:
            importlib.import_module(name)
        # With its first optimiser torch imports a good deal, which each worker would do for itself.
        torch: Any = sys.modules["torch"]
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    gc.freeze()  # a collection in a worker would copy every page
    waking, waker = os.pipe()
    for end in (waking, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    workers: dict[int, int] = {}  # process -> descriptor to which its end is reported
    try:
        while True:
            ready, _, _ = select.select([control.fileno(), waking], [], [])
            if waking in ready:
                os.read(waking, 4096)
                _reap(workers)
            if control.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(control, 64, 3)
                if not message:
                    return
                if message[:1] == KILL:
                    (process,) = NUMBER.unpack(message[1:])
                    if process in workers:
                        _kill(process)
                else:
                    _fork(descriptors, workers, [control.fileno(), waking, waker])
    finally:
        for process in workers:
            _kill(process)


def _fork(descriptors: list[int], workers: dict[int, int], others: list[int]) -> None:
    talk, status, fault = descriptors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numerical libraries have threads of their own
        try:
            process = os.fork()
        except OSError:  # the closed sockets report it
            for each in descriptors:
                os.close(each)
            return
    if process == 0:
        try:
            _become_worker(others + list(workers.values()) + [status])
            serve(talk, fault)
        finally:
            os._exit(0)
    workers[process] = status
    with contextlib.suppress(OSError):  # the driver has gone
        os.write(status, NUMBER.pack(process))
    os.close(talk)
    os.close(fault)


def _become_worker(close: list[int]) -> None:
    server = os.getppid()
    os.setpgid(0, 0)  # what it starts itself is ended with it
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in close:
        os.close(descriptor)


def _reap(workers: dict[int, int]) -> None:
    while workers:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        with contextlib.suppress(OSError):  # what it has started
            os.killpg(ended.si_pid, signal.SIGKILL)
        _, code = os.waitpid(ended.si_pid, 0)
        status = workers.pop(ended.si_pid, None)
        if status is not None:
            with contextlib.suppress(OSError):
                os.write(status, NUMBER.pack(os.waitstatus_to_exitcode(code)))
            os.close(status)


def _kill(process: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(process, signal.SIGKILL)


def serve(talk: int, fault: int) -> None:
    """Answer the requests that come over ``talk``; Python writes the trace of a native crash to ``fault``."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    process = os.getpid()
    faulthandler.enable(fault, all_threads=False)
    with Connection(talk) as connection:
        try:
            about = pickle.loads(connection.recv_bytes())
            os.environ.clear()
            os.environ.update(about["environment"])
            with contextlib.suppress(OSError):  # the driver's folder may be gone
                os.chdir(about["folder"])
            search_first(about["paths"])
            torch = sys.modules["torch"]
            torch.set_num_threads(about["threads"])
            connection.send_bytes(READY)
            target: Any = None
            while True:
                request = connection.recv_bytes()
                if target is None:
                    target, failure = _made(about["target"])
                answer = failure or _answer(target, request)
                if os.getpid() != process:  # the user's code forked, and its copy must not answer too
                    os._exit(0)
                connection.send_bytes(answer)
                if failure is not None:
                    target = None
        except (EOFError, OSError):  # the driver has gone, or closed it
            return


def _made(content: bytes) -> tuple[Any, bytes | None]:
    try:
        return pickle.loads(content), None
    except BaseException as error:
        return None, _failure(error)


def _answer(target: Any, request: bytes) -> bytes:
    try:
        method, arguments = pickle.loads(request)
        return pickle.dumps((None, getattr(target, method)(*arguments)))
    except BaseException as error:  # whatever the user's code raises is an answer, not the end of this process
        return _failure(error)


def _failure(error: BaseException) -> bytes:
    full = full_disk_error(error)
    if full is not None:
        return pickle.dumps(("storage", disk_error_message(full)))
    return pickle.dumps(("storage" if isinstance(error, StorageError) else "failed", failure_message(error)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
