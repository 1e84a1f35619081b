"""Faults of workers under Ray Tune, with real processes that are killed and that crash."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from backend_toys import Actor, Script, diary, make_work
from test_conformance import train

from nas_distill.engine.backends.inline import InlineBackend
from nas_distill.engine.work import Outcome, Work
from nas_distill.utils.errors import RunError

KILLED = "worker died (killed, by hand or because memory ran short, or ended by its own code)"
TORCH_BUG = "import backend_crash; backend_crash.convolve()"


def with_retries(backend: Any, retries: int, workers: int = 2, folder: Path | None = None) -> Any:
    """A backend of other settings in the Ray that ``backend`` keeps."""
    from nas_distill.engine.backends.tune import TuneBackend

    backend.start()
    return TuneBackend(workers=workers, retries=retries, folder=folder or backend._folder)


def starts(work: Work) -> list[str]:
    return [line for line in diary(work) if line.startswith("start")]


def test_a_search_runs_in_worker_processes(tmp_path: Path) -> None:
    from nas_distill.engine.backends.tune import TuneBackend

    folder = tmp_path / "a run"
    script = Script([make_work(tmp_path, "good"), make_work(tmp_path, "bad", "fail")], lambda key, rung: rung < 2)
    backend = TuneBackend(workers=1, folder=folder)
    backend.run(script, Actor())
    assert script.outcomes == {"good": Outcome("stopped"), "bad": Outcome("failed", "the loss is not finite")}
    pids = {int(result.metrics["pid"]) for results in script.results.values() for result in results}
    assert len(pids) == 1  # it was used again
    assert os.getpid() not in pids
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert {path.name for path in folder.iterdir()} <= {"ray.log"}
    assert backend.startup_seconds > 0


def test_all_processes_of_a_search_listen_on_loopback_only(kept_tune: Any, tmp_path: Path) -> None:
    heard: dict[str, set[str]] = {}

    def look(key: str, rung: int) -> bool:
        driver = psutil.Process()
        for process in [driver, *driver.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found = {entry.laddr.ip for entry in process.net_connections("inet") if entry.status == "LISTEN"}
                heard.setdefault(process.name(), set()).update(found)
        return rung < 2

    kept_tune.run(Script([make_work(tmp_path, "a"), make_work(tmp_path, "b")], look), Actor())
    assert any("raylet" in name for name in heard)
    assert any("gcs_server" in name for name in heard)
    addresses = {address.removeprefix("::ffff:") for found in heard.values() for address in found}
    assert addresses
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses), heard


def test_a_stranger_without_the_token_is_refused(kept_tune: Any, tmp_path: Path) -> None:
    kept_tune.start()
    import ray

    ask = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).internal_kv_keys(b'', b'')"
    hidden = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    stranger = {key: value for key, value in os.environ.items() if key not in hidden}
    stranger |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    where = ray.get_runtime_context().gcs_address
    answer = subprocess.run([sys.executable, "-c", ask, where], env=stranger, capture_output=True, text=True)
    assert answer.returncode != 0
    assert "AuthenticationError" in answer.stderr


@pytest.mark.slow
class TestKilled:
    def test_a_worker_killed_in_mid_trial_is_replaced_and_its_work_continues(
        self, kept_tune: Any, tmp_path: Path
    ) -> None:
        def interfere(script: Script, event: tuple[Any, ...]) -> None:
            if event == ("report", "hit", 1):
                pid = int(script.results["hit"][-1].metrics["pid"])
                threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()

        hit, other = make_work(tmp_path, "hit", "wait once", rungs=4, at=2), make_work(tmp_path, "other")
        script = Script([hit, other], on_event=interfere)
        kept_tune.run(script, Actor())
        assert script.kinds() == {"hit": "complete", "other": "complete"}
        assert script.rungs("hit") == [0, 1, 2, 3]
        assert starts(hit) == ["start 0", "start 2"]
        before, after = (script.results["hit"][rung].metrics["pid"] for rung in (1, 2))
        assert before != after
        assert set(script.finished.values()) == {1}

    def test_a_work_that_kills_its_workers_fails_when_the_retries_are_used_up(
        self, kept_tune: Any, tmp_path: Path
    ) -> None:
        works = [make_work(tmp_path, "killer", "kill always"), *(make_work(tmp_path, f"w{i}") for i in range(3))]
        script = Script(works)
        with_retries(kept_tune, 2).run(script, Actor())
        assert script.outcomes["killer"] == Outcome("failed", f"{KILLED}, 3 times")
        assert starts(works[0]) == ["start 0", "start 1", "start 1"]
        assert set(script.rungs("killer")) == {0}
        assert [script.kinds()[f"w{i}"] for i in range(3)] == ["complete"] * 3
        assert set(script.finished.values()) == {1}

    def test_without_retries_one_death_is_the_end(self, kept_tune: Any, tmp_path: Path) -> None:
        works = [make_work(tmp_path, "killed", "kill once"), make_work(tmp_path, "ended", "exit")]
        script = Script(works)
        with_retries(kept_tune, 0).run(script, Actor())
        assert script.outcomes == {"killed": Outcome("failed", KILLED), "ended": Outcome("failed", KILLED)}
        assert [starts(work) for work in works] == [["start 0"], ["start 0"]]

    def test_a_worker_that_dies_between_works_costs_none(self, kept_tune: Any, tmp_path: Path) -> None:
        works = [make_work(tmp_path, f"w{i}", "die when closed" if i == 1 else "train") for i in range(4)]
        script = Script(works, lambda key, rung: key != "w1" or rung < 1)
        with_retries(kept_tune, 1, workers=1).run(script, Actor())
        assert script.kinds() == {"w0": "complete", "w1": "stopped", "w2": "complete", "w3": "complete"}
        assert set(script.finished.values()) == {1}


@pytest.mark.slow
class TestCrashed:
    def test_native_crashes_are_named_with_their_place(self, kept_tune: Any, tmp_path: Path) -> None:
        works = [
            make_work(tmp_path, "null", "null"),
            make_work(tmp_path, "abort", "abort"),
            make_work(tmp_path, "well"),
        ]
        script = Script(works)
        with_retries(kept_tune, 0).run(script, Actor())
        assert script.kinds() == {"null": "failed", "abort": "failed", "well": "complete"}
        causes = {key: outcome.cause for key, outcome in script.outcomes.items() if outcome.cause}
        assert causes["null"].startswith("worker died (Segmentation fault in string_at, ")
        assert causes["abort"].startswith("worker died (Aborted in act, backend_toys.py:")

    def test_the_convolution_that_corrupts_the_heap_loses_one_trial(self, kept_tune: Any, tmp_path: Path) -> None:
        tried = subprocess.run([sys.executable, "-c", TORCH_BUG], cwd=Path(__file__).parent, capture_output=True)
        if tried.returncode == 0:
            pytest.skip("this torch on this CPU survives it")
        works = [make_work(tmp_path, "bad", "convolve"), *(make_work(tmp_path, f"w{i}") for i in range(3))]
        script = Script(works)
        with_retries(kept_tune, 1).run(script, Actor())
        assert script.kinds() == {"bad": "failed", **{f"w{i}": "complete" for i in range(3)}}
        assert script.outcomes["bad"].cause is not None
        assert script.outcomes["bad"].cause.startswith("worker died (")
        assert script.outcomes["bad"].cause.endswith(", 2 times")


@pytest.mark.slow
class TestFailures:
    def test_leaving_the_process_politely_is_a_failure_as_data(self, kept_tune: Any, tmp_path: Path) -> None:
        work = make_work(tmp_path, "w", "exit politely")
        script = Script([work])
        kept_tune.run(script, Actor())
        assert script.outcomes == {"w": Outcome("failed", "its code raised SystemExit: 3")}
        assert starts(work) == ["start 0"]

    def test_an_evaluation_that_cannot_be_sent_is_said_before_anything_is_handed_out(
        self, kept_tune: Any, tmp_path: Path
    ) -> None:
        evaluator = Actor()
        evaluator.lock = threading.Lock()  # type: ignore[attr-defined]
        script = Script([make_work(tmp_path, "w")])
        with pytest.raises(RunError, match=r"cannot be sent to worker processes \(.*lock"):
            kept_tune.run(script, evaluator)
        assert script.events == []

    def test_an_evaluation_that_does_not_arrive_fails_each_work(self, kept_tune: Any, tmp_path: Path) -> None:
        script = Script([make_work(tmp_path, "a"), make_work(tmp_path, "b")])
        kept_tune.run(script, OnlyHere())
        assert script.outcomes == {
            key: Outcome("failed", "the evaluation does not unpack on a worker (ImportError: not on this machine)")
            for key in "ab"
        }

    def test_a_worker_that_is_too_big_for_every_node_is_an_error(self, kept_tune: Any, tmp_path: Path) -> None:
        from nas_distill.engine.backends.tune import TuneBackend

        kept_tune.start()
        script = Script([make_work(tmp_path, "w")])
        with pytest.raises(RunError, match="No node of Ray has the 4096 CPUs"):
            TuneBackend(workers=1, threads=4096, folder=tmp_path).run(script, Actor())
        assert script.events == []


class OnlyHere(Actor):
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ImportError("not on this machine")


@pytest.mark.slow
def test_with_one_worker_the_source_sees_what_it_sees_in_one_process(kept_tune: Any, tmp_path: Path) -> None:
    seen = []
    for name, backend in [("inline", InlineBackend()), ("tune", with_retries(kept_tune, 1, workers=1))]:
        acts = ["train", "fail", "train", "raise at start", "nan", "train"]
        works = [make_work(tmp_path / name, f"w{i}", act, rungs=1 + i % 3) for i, act in enumerate(acts)]
        script = Script(works, lambda key, rung: key != "w2" or rung < 1)
        backend.run(script, Actor())
        seen.append((script.events, script.outcomes))
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_global_generators_are_reset_for_each_work(kept_tune: Any, tmp_path: Path) -> None:
    works = [make_work(tmp_path, f"w{i}", at=4 + i, seed=i) for i in range(3)]
    one_worker = with_retries(kept_tune, 1, workers=1)
    alone = train(one_worker, works[2:], careless=True)
    among = train(one_worker, works, careless=True)
    assert among["w2"] == alone["w2"]


@pytest.mark.slow
def test_arrays_are_shared_with_workers_and_cannot_be_written(kept_tune: Any, tmp_path: Path) -> None:
    array = np.ones(4_000_000)
    script = Script([make_work(tmp_path, "writes", "write"), make_work(tmp_path, "looks", "describe")])
    kept_tune.run(script, Actor(array))
    assert script.outcomes["writes"] == Outcome("failed", "ValueError: assignment destination is read-only")
    seen = script.results["looks"][1].metrics
    assert (seen["sum"], seen["owns"], seen["writes"]) == (4_000_000, 0, 0)  # a view of memory that all share


@pytest.mark.slow
def test_an_evaluator_that_runs_share_is_sent_once(kept_tune: Any, tmp_path: Path) -> None:
    first, second = CountsPickles(), CountsPickles()
    for number, evaluator in enumerate([first, first, second]):
        script = Script([make_work(tmp_path, f"w{number}")])
        kept_tune.run(script, evaluator)
        assert script.kinds() == {f"w{number}": "complete"}
    assert (first.pickles, second.pickles) == (1, 1)


class CountsPickles(Actor):
    pickles = 0

    def __getstate__(self) -> dict[str, Any]:
        self.pickles += 1
        return {"array": None}


@pytest.mark.slow
def test_stopping_does_not_wait_for_a_rung(kept_tune: Any, tmp_path: Path) -> None:
    works = [make_work(tmp_path, f"w{i}", "wait", at=0) for i in range(4)]
    script = Script(works)

    def stop_when_both_wait() -> None:
        while not all("waiting" in diary(work) for work in works[:2]):
            time.sleep(0.1)
        script.stop()

    thread = threading.Thread(target=stop_when_both_wait)
    thread.start()
    kept_tune.run(script, Actor())
    thread.join()
    assert script.kinds() == {"w0": "interrupted", "w1": "interrupted"}
    assert all("waited" not in diary(work) for work in works)


@pytest.mark.slow
def test_a_work_that_is_being_retried_can_be_interrupted(kept_tune: Any, tmp_path: Path) -> None:
    work = make_work(tmp_path, "w", "kill always")
    script = Script([work])

    def stop_after_the_first_death() -> None:
        while not starts(work):
            time.sleep(0.05)
        time.sleep(0.5)
        script.stop()

    thread = threading.Thread(target=stop_after_the_first_death)
    thread.start()
    with_retries(kept_tune, 50).run(script, Actor())
    thread.join()
    assert script.kinds() == {"w": "interrupted"}


@pytest.mark.slow
def test_handlers_environment_and_loggers_are_as_before(kept_tune: Any, tmp_path: Path) -> None:
    kept_tune.start()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers, environment, folder = [signal.getsignal(number) for number in numbers], dict(os.environ), Path.cwd()
    kept_tune.run(Script([make_work(tmp_path, "w")]), Actor())
    assert [signal.getsignal(number) for number in numbers] == handlers
    assert dict(os.environ) == environment
    assert Path.cwd() == folder


@pytest.mark.slow
def test_paths_may_have_spaces_and_letters(kept_tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ein Ordner, 100 % lüften? #1 日本"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    work = make_work(folder, "schöner Schlüssel")
    script = Script([work])
    with_retries(kept_tune, 1, folder=folder).run(script, Actor())
    assert script.kinds() == {work.key: "complete"}


@pytest.mark.slow
def test_a_ray_that_runs_already_is_used_and_left_running(kept_tune: Any, tmp_path: Path) -> None:
    import ray

    kept_tune.start()
    script = Script([make_work(tmp_path, "w")])
    with_retries(kept_tune, 1, folder=tmp_path).run(script, Actor())
    assert script.kinds() == {"w": "complete"}
    assert ray.is_initialized()
