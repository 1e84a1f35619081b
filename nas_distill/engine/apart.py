"""A computation in a copy of this process, so that what crashes there natively crashes nothing else."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress

from nas_distill.common.errors import first_line


class ApartError(Exception):
    """The computation raised or crashed; says which."""


def compute_apart(compute: Callable[[], float], *, seconds: float) -> float:
    """Return what ``compute`` returns, computed in a fork of this process within so many seconds.

    The fork may use torch on the CPU, on one thread: the thread pool of this process does not exist there. Where there
    is no fork to be had (systems other than Linux), it is computed here.

    Raises:
        ApartError: it raised or died.
        TimeoutError: it took too long.
    """
    if sys.platform != "linux":
        try:
            return compute()
        except Exception as error:
            raise ApartError(first_line(error)) from error
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        _answer(compute, writing)
    os.close(writing)
    try:
        said = _read(reading, seconds)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if said is None:
        raise TimeoutError(f"it took longer than {seconds:g} seconds")
    if not said:
        raise ApartError(f"it ended its process (status {os.waitstatus_to_exitcode(status)})")
    answer = json.loads(said)
    if "error" in answer:
        raise ApartError(answer["error"])
    return float(answer["value"])


def _answer(compute: Callable[[], float], writing: int) -> None:
    """Compute in the fork, answer and end it, without anything that is done at this program's end."""
    import resource

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # What crashes here is no business of the terminal's, and leaves no core behind.
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            answer: dict[str, float | str] = {"value": compute()}
        except BaseException as error:
            answer = {"error": first_line(error)}
        os.write(writing, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _read(descriptor: int, seconds: float) -> bytes | None:
    """Return all that comes, or None if its end does not come in time."""
    said, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([descriptor], [], [], left)[0]:
        part = os.read(descriptor, 4096)
        if not part:
            return said
        said += part
    return None
