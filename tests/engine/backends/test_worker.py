from __future__ import annotations

import copy
import faulthandler
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_toys import Actor, ActorRun, diary, make_work
from backend_trainer import Trainer

from nas_distill.engine.backends.relay import Relay
from nas_distill.engine.backends.shared import SharedFolder
from nas_distill.engine.backends.worker import Parcel, Worker
from nas_distill.engine.death import fault_file
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.utils.errors import StorageError
from nas_distill.utils.references import import_path, load_reference, search_first


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """A worker changes its process, which here is that of the tests."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    path, threads, watched = sys.path[:], torch.get_num_threads(), faulthandler.is_enabled()
    state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.path[:] = path
    torch.set_num_threads(threads)
    random.setstate(state)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    faulthandler.disable()
    if watched:
        faulthandler.enable(sys.__stderr__ or sys.stderr)


def make(folder: Path, evaluator: Any = None, *, threads: int = 1, paths: tuple[str, ...] = ()) -> Worker:
    return Worker(lambda: evaluator or Actor(), threads=threads, faults=folder, paths=paths)


def test_a_step_is_a_rung_and_the_last_one_closes(tmp_path: Path) -> None:
    worker, work = make(tmp_path), make_work(tmp_path, "w", rungs=2)
    worker.load(work)
    first, second = worker.step(), worker.step()
    assert first.key == second.key == "w"
    assert first.result is not None
    assert second.result is not None
    assert (first.result.rung, second.result.rung) == (0, 1)
    assert second.begun >= first.begun > 0
    assert diary(work) == ["start 0", "rung 0", "rung 1", "close"]
    worker.close()
    assert diary(work)[-2:] == ["rung 1", "close"]


def test_a_stopped_work_is_closed_when_the_next_is_loaded(tmp_path: Path) -> None:
    worker, first, second = make(tmp_path), make_work(tmp_path, "a"), make_work(tmp_path, "b")
    worker.load(first)
    worker.step()
    worker.load(second)
    assert diary(first)[-1] == "close"
    assert worker.step().key == "b"
    worker.close()
    assert diary(second)[-1] == "close"


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        ("fail to start", "this architecture cannot be built"),
        ("raise", r"KeyError: 'no such\nthing'"),
        ("exit politely", "its code raised SystemExit: 3"),
    ],
)
def test_errors_come_back_as_words(tmp_path: Path, act: str, cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    worker, work = make(tmp_path), make_work(tmp_path, "w", act, at=0)
    worker.load(work)
    message = worker.step()
    assert (message.key, message.result, message.cause) == ("w", None, cause)
    assert "Traceback" in capsys.readouterr().err  # for the worker's own log
    if act != "fail to start":
        assert diary(work)[-1] == "close"
    worker.load(make_work(tmp_path, "after"))
    assert worker.step().result is not None
    worker.close()


def test_an_evaluator_that_does_not_arrive_fails_works_and_is_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch() -> Actor:
        raise ModuleNotFoundError("No module named 'mine'")

    worker = Worker(fetch, threads=1, faults=tmp_path, paths=())
    for key in "ab":
        worker.load(make_work(tmp_path, key))
        assert worker.step().cause == "ModuleNotFoundError: No module named 'mine'"


def test_an_error_in_close_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Careless(Actor):
        def start(self, work: Work) -> ActorRun:
            run = super().start(work)
            run.close = lambda: 1 / 0  # type: ignore[method-assign,assignment]
            return run

    worker = make(tmp_path, Careless())
    worker.load(make_work(tmp_path, "w", rungs=1))
    assert worker.step().result is not None
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_global_generators_are_the_same_whatever_ran_before(tmp_path: Path) -> None:
    class Drawing(Actor):
        def start(self, work: Work) -> ActorRun:
            run = super().start(work)
            figures = {"a": random.random(), "b": np.random.rand(), "c": float(torch.rand(()))}
            run.next_rung = lambda: RungResult(0, 1, 0.0, 0.0, figures)  # type: ignore[method-assign]
            return run

    worker = make(tmp_path, Drawing())
    drawn = []
    for key, seed in [("a", 1), ("b", 1), ("c", 2)]:
        worker.load(make_work(tmp_path, key, rungs=1, seed=seed))
        message = worker.step()
        assert message.result is not None
        drawn.append(message.result.metrics)
        random.random(), np.random.rand(), torch.rand(3)
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_torch_threads_are_as_many_as_asked_at_every_rung(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trainer = Trainer(rng.normal(size=(16, 5)).astype(np.float32), rng.integers(0, 3, 16))
    worker = make(tmp_path, trainer, threads=1)
    worker.load(make_work(tmp_path, "w", rungs=2, at=4))
    torch.set_num_threads(2)
    for _ in range(2):
        message = worker.step()
        assert message.result is not None
        assert message.result.metrics["threads"] == 1
        torch.set_num_threads(2)


def test_signals_and_paths_are_a_workers(tmp_path: Path) -> None:
    make(tmp_path, paths=("/some/where", sys.path[1]))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert sys.path[0] == "/some/where"


def test_a_name_means_the_drivers_module_in_a_worker(tmp_path: Path) -> None:
    name = "worker_same_name"
    for folder in ("user", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(f"PLACE = {folder!r}\n")
    before = list(sys.path)
    search_first([tmp_path / "user", tmp_path / "other"])
    driver = import_path()
    sys.path[:] = [str(tmp_path / "other"), *before]  # as a worker process might be started
    make(tmp_path, paths=tuple(driver))
    try:
        assert load_reference(f"{name}:PLACE", what="place") == "user"
    finally:
        sys.modules.pop(name, None)


def test_outside_the_main_thread_signals_are_not_changed(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: make(tmp_path))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_traces_of_crashes_go_where_the_driver_looks(tmp_path: Path) -> None:
    worker, work = make(tmp_path), make_work(tmp_path, "w")
    worker.load(work)
    worker.step()
    assert fault_file(tmp_path, "w").exists()
    assert faulthandler.is_enabled()
    worker.close()


def test_a_missing_folder_for_traces_is_ignored(tmp_path: Path) -> None:
    worker = make(tmp_path / "of another machine")
    worker.load(make_work(tmp_path, "w"))
    assert worker.step().result is not None
    worker.close()


def test_a_parcel_is_opened_unchanged_and_prints_little(tmp_path: Path) -> None:
    work = make_work(tmp_path, "w", "fail", seed=5)
    parcel = copy.deepcopy(Parcel.of(work))
    assert parcel.open() == work
    assert len(repr(parcel)) < 20


def test_nothing_is_trained_on_a_node_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything ends as interrupted, and no candidate is blamed."""

    outcomes: list[str] = []

    class Source:
        stopping = False

        def next(self) -> Work:
            return work

        def finish(self, key: str, outcome: Outcome) -> None:
            outcomes.append(outcome.kind)

    work = make_work(tmp_path, "w", rungs=2)
    fetched: list[bool] = []
    monkeypatch.setattr(SharedFolder.check, "__defaults__", (0.0,))
    gone = SharedFolder(tmp_path / "elsewhere", "token")
    worker = Worker(lambda: fetched.append(True) or Actor(), threads=1, shared=gone)  # type: ignore[func-returns-value]
    worker.prepare()
    worker.load(work)
    relay = Relay(Source(), retries=1)  # type: ignore[arg-type]
    assert relay.next() is work
    assert not relay.take(worker.step())
    relay.interrupt()
    assert isinstance(relay.error, StorageError)
    assert outcomes == ["interrupted"]
    assert fetched == []
    assert diary(work) == []
