"""What every backend must do, whatever it runs on."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_toys import Actor, Script, diary, make_work
from backend_trainer import Trainer

from nas_distill.engine.work import Outcome, Work
from nas_distill.utils.errors import RunError, StorageError


def test_all_work_is_finished_exactly_once(backend: Any, tmp_path: Path) -> None:
    script = Script([make_work(tmp_path, f"w{i}", rungs=1 + i % 3) for i in range(6)])
    backend.run(script, Actor())
    assert script.handed_out() == [f"w{i}" for i in range(6)]
    assert script.finished == {f"w{i}": 1 for i in range(6)}
    assert set(script.kinds().values()) == {"complete"}
    assert all(outcome.cause is None for outcome in script.outcomes.values())


def test_rungs_are_reported_in_order_between_next_and_finish(backend: Any, tmp_path: Path) -> None:
    script = Script([make_work(tmp_path, f"w{i}", rungs=4) for i in range(3)])
    backend.run(script, Actor())
    for i in range(3):
        own = [event for event in script.events if event[1] == f"w{i}"]
        assert own == [
            ("next", f"w{i}"),
            *(("report", f"w{i}", rung) for rung in range(4)),
            ("finish", f"w{i}", "complete"),
        ]


def test_results_arrive_as_they_were_given(backend: Any, tmp_path: Path) -> None:
    script = Script([make_work(tmp_path, "w", rungs=2)])
    backend.run(script, Actor())
    first, second = script.results["w"]
    assert (first.rung, first.step, first.quality, first.seconds) == (0, 10, 0.0, 0.5)
    assert (second.rung, second.step, second.quality, second.seconds) == (1, 20, 1.0, 0.5)
    assert first.metrics.keys() == {"pid", "resumed_at"}


def test_without_work_nothing_happens(backend: Any) -> None:
    script = Script([])
    backend.run(script, Actor())
    assert script.outcomes == {}


def test_a_stop_answer_is_obeyed(backend: Any, tmp_path: Path) -> None:
    def answer(key: str, rung: int) -> bool:
        return key == "goes on" or rung < {"first": 0, "second": 1, "last": 2}[key]

    works = [make_work(tmp_path, key) for key in ("first", "goes on", "second", "last")]
    script = Script(works, answer)
    backend.run(script, Actor())
    assert script.kinds() == {"first": "stopped", "goes on": "complete", "second": "stopped", "last": "stopped"}
    assert [script.rungs(key) for key in ("first", "goes on", "second", "last")] == [[0], [0, 1, 2], [0, 1], [0, 1, 2]]
    assert set(script.finished.values()) == {1}
    for work in works:
        assert sum(line.startswith("rung") for line in diary(work)) == len(script.rungs(work.key))


def test_a_full_disk_ends_everything_and_fails_no_work(backend: Any, tmp_path: Path) -> None:
    works = [make_work(tmp_path, "before"), make_work(tmp_path, "unlucky", "find the disk full")]
    script = Script([*works, *(make_work(tmp_path, f"after-{i}") for i in range(5))])
    with pytest.raises(StorageError, match=r"^Checkpoint state\.pt cannot be written \(No space left on device\)\.?$"):
        backend.run(script, Actor())
    assert script.kinds()["unlucky"] == "interrupted"
    assert script.rungs("unlucky") == [0]
    assert set(script.kinds()) == set(script.handed_out())
    assert set(script.finished.values()) == {1}
    assert "after-4" not in script.handed_out()


@pytest.mark.parametrize(
    ("act", "rungs", "cause"),
    [
        ("fail to start", [], "this architecture cannot be built"),
        ("raise at start", [], "ZeroDivisionError: at the start"),
        ("fail", [0], "the loss is not finite"),
        ("raise", [0], r"KeyError: 'no such\nthing'"),
    ],
)
def test_an_error_of_the_evaluation_fails_only_its_work(
    backend: Any, tmp_path: Path, act: str, rungs: list[int], cause: str
) -> None:
    works = [make_work(tmp_path, "before"), make_work(tmp_path, "bad", act), make_work(tmp_path, "after")]
    script = Script(works)
    backend.run(script, Actor())
    assert script.outcomes["bad"] == Outcome("failed", cause)
    assert script.rungs("bad") == rungs
    assert script.kinds()["before"] == script.kinds()["after"] == "complete"
    assert set(script.finished.values()) == {1}
    assert [line for line in diary(works[1]) if line.startswith("start")] == ["start 0"]  # it is not tried again


HOSTILE = {
    "exit politely": "SystemExit: 3",
    "exit": "worker died",
    "null": "worker died (Segmentation fault in string_at",
    "abort": "worker died (Aborted in act",
    "interrupt": "KeyboardInterrupt",
    "panic": "PanicError: over and out",
    "raise what has no words": "WordlessError",
}


@pytest.mark.parametrize("at", [-1, 1])
def test_whatever_a_network_does_to_its_process_one_work_is_lost(backend: Any, tmp_path: Path, at: int) -> None:
    works = [make_work(tmp_path, act.replace(" ", "-"), act, at=at) for act in HOSTILE]
    talker = make_work(tmp_path, "talker", "talk and leave a thread", at=at)
    forker = make_work(tmp_path, "forker", "fork", at=at)
    script = Script([*works, talker, forker, *(make_work(tmp_path, f"w{i}") for i in range(2))])
    backend.run(script, Actor())
    for work, cause in zip(works, HOSTILE.values()):
        outcome = script.outcomes[work.key]
        assert outcome.kind == "failed"
        assert cause in (outcome.cause or "")
        assert not {"\n", "\x1b"} & set(outcome.cause or "")
        assert "Traceback" not in (outcome.cause or "")
    assert {script.kinds()[key] for key in ("talker", "forker", "w0", "w1")} == {"complete"}
    assert set(script.finished.values()) == {1}


def test_a_failed_work_that_has_changed_its_process_does_not_fail_the_next(backend: Any, tmp_path: Path) -> None:
    acts = ["spoil its process", "train", "spoil its process", "train", "train"]
    script = Script([make_work(tmp_path, f"w{index}", act) for index, act in enumerate(acts)])
    backend.run(script, Actor())
    for key in ("w0", "w2"):
        assert script.outcomes[key].kind == "failed"
        assert "SystemExit: 4" in (script.outcomes[key].cause or "")
    assert {script.kinds()[key] for key in ("w1", "w3", "w4")} == {"complete"}
    assert set(script.finished.values()) == {1}


@pytest.mark.parametrize("at", [-1, 1])
def test_a_work_over_its_time_is_ended_and_not_tried_again(limited: Any, tmp_path: Path, at: int) -> None:
    works = [make_work(tmp_path, "endless", "loop", at=at), make_work(tmp_path, "after")]
    script = Script(works)
    limited.run(script, Actor())
    assert script.outcomes["endless"].kind == "failed"
    assert "longer than its limit of 0.05 minutes" in (script.outcomes["endless"].cause or "")
    assert script.kinds()["after"] == "complete"
    assert len([line for line in diary(works[0]) if line.startswith("start")]) == 1


def test_a_full_disk_behind_an_error_fails_no_work(backend: Any, tmp_path: Path) -> None:
    script = Script([make_work(tmp_path, "w", "find no room")])
    with pytest.raises(StorageError, match="the disk is full"):
        backend.run(script, Actor())
    assert script.kinds() == {"w": "interrupted"}


def test_what_cannot_be_sent_to_workers_is_said(backend: Any, tmp_path: Path) -> None:
    script = Script([make_work(tmp_path, "w")])
    evaluator: Any = threading.Lock()
    with pytest.raises(RunError, match="cannot be sent to worker processes"):
        backend.run(script, evaluator)


@pytest.mark.parametrize("act", ["nan", "infinite"])
def test_a_quality_that_is_not_finite_is_for_the_source_to_judge(backend: Any, tmp_path: Path, act: str) -> None:
    script = Script([make_work(tmp_path, "kept", act), make_work(tmp_path, "ended", act)], lambda key, _: key == "kept")
    script.answer = lambda key, rung: key == "kept" or rung == 0
    backend.run(script, Actor())
    assert not math.isfinite(script.results["kept"][1].quality)
    assert script.kinds() == {"kept": "complete", "ended": "stopped"}


@pytest.mark.parametrize("hook", ["next", "report", "finish"])
def test_an_error_of_the_source_is_raised_and_it_is_asked_nothing_more(backend: Any, tmp_path: Path, hook: str) -> None:
    class DiskError(Exception):
        pass

    error = DiskError("no space left")

    def interfere(script: Script, event: tuple[Any, ...]) -> None:
        if event[0] == hook and event[1] in ("w1", None):
            raise error

    script = Script([make_work(tmp_path, f"w{i}") for i in range(4)], on_event=interfere)
    with pytest.raises(DiskError) as caught:
        backend.run(script, Actor())
    assert caught.value is error
    assert script.events[-1][:2] == (hook, "w1")
    assert all(count == 1 for count in script.finished.values())


def test_stopping_ends_what_is_in_flight_as_interrupted(backend: Any, tmp_path: Path) -> None:
    def interfere(script: Script, event: tuple[Any, ...]) -> None:
        if event == ("report", "w1", 1):
            script.stop()

    script = Script([make_work(tmp_path, f"w{i}", rungs=4) for i in range(6)], on_event=interfere)
    backend.run(script, Actor())
    assert script.kinds()["w1"] == "interrupted"
    assert script.rungs("w1") == [0, 1]
    assert set(script.finished) == set(script.handed_out())
    assert set(script.finished.values()) == {1}
    assert len(script.handed_out()) < 6
    assert set(script.kinds().values()) <= {"interrupted", "complete"}


def test_a_source_that_stops_at_a_last_rung_has_a_complete_work(backend: Any, tmp_path: Path) -> None:
    def interfere(script: Script, event: tuple[Any, ...]) -> None:
        if event == ("report", "w0", 1):
            script.stop()

    script = Script([make_work(tmp_path, "w0", rungs=2)], on_event=interfere)
    backend.run(script, Actor())
    assert script.kinds() == {"w0": "complete"}


def test_a_source_that_is_stopping_hands_nothing_out(backend: Any, tmp_path: Path) -> None:
    script = Script([make_work(tmp_path, "w")])
    script.stop()
    backend.run(script, Actor())
    assert script.events == []


def test_what_was_interrupted_continues_from_its_checkpoint(backend: Any, tmp_path: Path) -> None:
    work = make_work(tmp_path, "w", rungs=4)

    def interfere(script: Script, event: tuple[Any, ...]) -> None:
        if event == ("report", "w", 1):
            script.stop()

    backend.run(Script([work], on_event=interfere), Actor())
    reached = int((work.checkpoint / "rung.txt").read_text())
    again = Script([work])
    backend.run(again, Actor())
    assert reached in (2, 3)  # a worker may be a rung ahead when it is told
    assert again.rungs("w") == list(range(reached, 4))
    assert again.kinds() == {"w": "complete"}


def test_every_run_that_was_started_is_closed_once(backend: Any, tmp_path: Path) -> None:
    works = [
        make_work(tmp_path, "complete"),
        make_work(tmp_path, "failed", "fail"),
        make_work(tmp_path, "stopped"),
        make_work(tmp_path, "last"),
    ]
    backend.run(Script(works, lambda key, rung: key != "stopped" or rung < 1), Actor())
    for work in works:
        assert diary(work)[-1] == "close"
        assert diary(work).count("close") == 1


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(64, 5)).astype(np.float32), rng.integers(0, 3, size=64)


def train(backend: Any, works: list[Work], *, careless: bool = False) -> dict[str, list[tuple[float, ...]]]:
    script = Script(works)
    backend.run(script, Trainer(*data(), careless=careless))
    assert set(script.kinds().values()) == {"complete"}
    return {
        key: [(result.quality, result.metrics["weights"], result.metrics["noise"]) for result in results]
        for key, results in script.results.items()
    }


def test_a_work_has_the_same_result_first_and_after_five_others(backend: Any, tmp_path: Path) -> None:
    others = [make_work(tmp_path, f"other{i}", at=4 + 3 * i, seed=i) for i in range(5)]
    alone = train(backend, [make_work(tmp_path, "it", at=8, seed=7)])
    among = train(backend, [*others, make_work(tmp_path, "it", at=8, seed=7)])
    assert among["it"] == alone["it"]
    assert len({tuple(results) for results in among.values()}) == 6
