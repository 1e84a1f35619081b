"""Calls in a worker process, and what becomes of them when that process is ended by what it calls."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from nas_distill.engine.child import CallError, CallStoppedError, CallTimeoutError, Child, ChildDiedError
from nas_distill.utils.errors import RunError, StorageError


class Target:
    """Does in its process what it is asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def about(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "folder": str(Path.cwd()),
            "threads": torch.get_num_threads(),
            "variable": os.environ.get("NAS_DISTILL_TEST"),
            "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        }

    def do(self, act: Callable[[], Any]) -> Any:
        return act()


def sleep_elsewhere() -> int:
    return subprocess.Popen(["sleep", "600"], close_fds=False).pid


def loop() -> None:
    while True:
        pass


def raise_full() -> None:
    try:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", "/some/where")
    except OSError as error:
        raise ValueError("it did not work") from error


def fork() -> str:
    """Return in two processes, the second one first."""
    time.sleep(0.5 if os.fork() else 0)
    return "forked"


def interrupt() -> None:
    raise KeyboardInterrupt


def test_calls_are_made_in_one_process_that_keeps_its_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_DISTILL_TEST", "yes")
    with Child(Target(), threads=1) as child:
        assert [child.call("count") for _ in range(3)] == [1, 2, 3]
        about = child.call("about")
    assert about.pop("pid") != os.getpid()
    assert about == {"folder": str(tmp_path), "threads": 1, "variable": "yes", "interrupt": True}


@pytest.mark.parametrize(
    ("act", "kind", "cause"),
    [
        (lambda: 1 / 0, CallError, "ZeroDivisionError: division by zero"),
        (lambda: sys.exit(3), CallError, "its code raised SystemExit: 3"),
        (interrupt, CallError, "its code raised KeyboardInterrupt"),
        (raise_full, StorageError, "the disk is full, so /some/where could not be written"),
        (lambda: os._exit(3), ChildDiedError, "ended the process with exit code 3"),
        (lambda: ctypes.string_at(0), ChildDiedError, "Segmentation fault in string_at"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), ChildDiedError, "killed by signal 9"),
        (loop, CallTimeoutError, "longer than 1 seconds"),
        (threading.Lock, CallError, "TypeError: cannot pickle"),
    ],
)
def test_the_end_of_a_call_is_reported_and_the_next_one_works(act, kind, cause, capfd):
    with Child(Target()) as child:
        with pytest.raises(kind, match=cause):
            child.call("do", act, seconds=1 if act is loop else None)
        assert child.call("do", lambda: "alive") == "alive"
    assert capfd.readouterr() == ("", "")


def test_what_a_call_prints_and_starts_is_not_seen_and_ends_with_the_process(capfd):
    with Child(Target()) as child:
        child.call("do", lambda: print("words") or os.write(2, b"more"))
        other = child.call("do", sleep_elsewhere)
        assert psutil.pid_exists(other)
        pid = child.call("about")["pid"]
    end = time.monotonic() + 20
    while time.monotonic() < end and (psutil.pid_exists(other) and psutil.Process(other).status() != "zombie"):
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(other) or psutil.Process(other).status() == "zombie"
    assert capfd.readouterr() == ("", "")


def test_a_copy_that_a_call_forks_does_not_answer_too():
    with Child(Target()) as child:
        pid = child.call("about")["pid"]
        assert child.call("do", fork) == "forked"
        time.sleep(1)
        assert [child.call("count") for _ in range(3)] == [1, 2, 3]
        assert child.call("about")["pid"] == pid


def test_a_call_is_cancelled_by_its_caller():
    asked = []
    with Child(Target()) as child:
        with pytest.raises(CallStoppedError):
            child.call("do", loop, ending=lambda: bool(asked) or asked.append(1) or False)
        assert child.call("count") == 1


def test_what_cannot_be_sent_is_said():
    with pytest.raises(RunError, match=r"cannot be sent to worker processes \(TypeError: .*lock"):
        Child(threading.Lock())


def test_what_cannot_be_unpacked_fails_each_call():
    class Broken:
        def __reduce__(self) -> Any:
            return (int, ("no number",))

    with Child(Broken()) as child:
        for _ in range(2):
            with pytest.raises(CallError, match="ValueError: invalid literal"):
                child.call("count")


DRIVER = """
import os, signal, time
from nas_distill.engine.child import Child

def build():
    while True:
        pass

class Local:
    def pid(self):
        return os.getpid()
    def loop(self):
        build()

# As of a terminal: a shell starts commands in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
child = Child(Local())
print(child.call("pid"), flush=True)
child.call("loop")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_of_a_script_ends_with_it(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(DRIVER)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    worker = psutil.Process(int(process.stdout.readline()))
    process.send_signal(number)
    try:
        assert process.wait(60) != 0
        worker.wait(20)
    finally:
        process.kill()
        process.stdout.close()
