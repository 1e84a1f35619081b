"""A whole search as a process: what it prints, how it is interrupted, what is left of it when it is killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
DRIVER = Path(__file__).parent / "backend_driver.py"


def start(folder: Path, acts: str, **options: object) -> subprocess.Popen[bytes]:
    """A search in a process group of its own, as a terminal would start it."""
    command = [sys.executable, str(DRIVER), str(folder), acts, json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def outcomes(folder: Path) -> dict[str, tuple[str, str | None]]:
    return {key: (kind, cause) for key, (kind, cause) in json.loads((folder / "outcomes.json").read_text()).items()}


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.2)
    return what()


def waiting(folder: Path, key: str) -> bool:
    path = folder / "checkpoints" / key / "diary.txt"
    return path.exists() and "waiting" in path.read_text()


def test_nothing_is_printed_though_workers_are_killed_and_crash(tmp_path: Path) -> None:
    process = start(tmp_path, "train,kill always,null,raise,kill once")
    out, err = process.communicate(timeout=240)
    assert (out, err) == (b"", b"")
    assert process.returncode == 0
    kinds = [outcomes(tmp_path)[f"w{i}"][0] for i in range(5)]
    assert kinds == ["complete", "failed", "failed", "failed", "complete"]
    assert "ActorDiedError" in (tmp_path / "run" / "ray.log").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGUSR2, 3)])
def test_a_signal_ends_a_search_at_once_and_cleanly(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start(tmp_path, "train,wait,wait,train")
    assert wait_for(lambda: waiting(tmp_path, "w1") and waiting(tmp_path, "w2"), 120)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal sends it to every process of the group, Ray's and workers' too
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)  # the rungs in flight would take two minutes
    assert (process.returncode, out, err) == (code, b"", b"")
    assert outcomes(tmp_path) == {
        "w0": ("complete", None),
        "w1": ("interrupted", None),
        "w2": ("interrupted", None),
    }
    assert wait_for(lambda: not any(map(psutil.pid_exists, pids(tmp_path))), 20)


def test_no_worker_outlives_a_driver_that_was_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "wait,wait")
    assert wait_for(lambda: waiting(tmp_path, "w0") and waiting(tmp_path, "w1"), 120)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if "Trainable" in " ".join(child.cmdline())]
    assert len(workers) == 2
    process.kill()
    process.communicate(timeout=60)
    gone = wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in workers), 20)
    for child in family:  # Ray's own helpers take a minute
        if child.is_running():
            child.kill()
    assert gone


def pids(folder: Path) -> set[int]:
    path = folder / "pids.txt"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster of one node, with ports, a folder and a token of its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets lie below it: their paths must be short
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
        *("--port", str(port), "--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", folder),
    ]
    with (Path(folder) / "start.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for child in family:
            if child.is_running():
                child.kill()
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def test_a_search_runs_on_a_cluster_and_leaves_it_running(tmp_path: Path, cluster: str) -> None:
    assert wait_for(lambda: answers(cluster), 60)
    time.sleep(5)
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        process = start(folder, "train,kill once,train", address=cluster)
        out, err = process.communicate(timeout=200)
        assert (process.returncode, out, err) == (0, b"", b"")
        assert set(outcomes(folder).values()) == {("complete", None)}


def test_an_address_where_nothing_answers_is_an_error(tmp_path: Path) -> None:
    for address, said in [
        ("127.0.0.1:1", b"No Ray cluster answers at '127.0.0.1:1'"),
        ("ray://127.0.0.1:1", b"is the address of Ray's client server"),
    ]:
        process = start(tmp_path, "train", address=address)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert said in err.splitlines()[-1]
