from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backend_toys import Script, make_work
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.engine.backends.relay import Relay
from nas_distill.engine.work import Outcome, RungResult


def result(rung: int) -> RungResult:
    return RungResult(rung, rung, 0.5, 0.0)


def make(folder: Path, count: int = 3, *, retries: int = 1, **script: Any) -> tuple[Script, Relay]:
    source = Script([make_work(folder, f"w{i}", rungs=2) for i in range(count)], **script)
    return source, Relay(source, retries=retries)


def test_a_work_goes_from_next_to_complete(tmp_path: Path) -> None:
    source, relay = make(tmp_path, 1)
    work = relay.next()
    assert work is not None
    assert relay.report("w0", result(0))
    assert not relay.report("w0", result(1))
    assert source.outcomes == {"w0": Outcome("complete")}
    assert not relay.done
    assert relay.next() is None
    assert relay.done


def test_a_source_that_has_no_more_is_not_asked_again(tmp_path: Path) -> None:
    source, relay = make(tmp_path, 0)
    assert relay.next() is None
    assert relay.next() is None
    assert source.events == [("next", None)]


def test_a_death_is_forgiven_as_often_as_there_are_retries(tmp_path: Path) -> None:
    source, relay = make(tmp_path, 1, retries=2)
    work = relay.next()
    assert relay.died("w0", "worker died")
    relay.hand_out_again("w0")
    assert relay.next() is work
    assert relay.died("w0", "worker died")
    assert source.outcomes == {}
    assert not relay.died("w0", "worker died (at last)")
    assert source.outcomes == {"w0": Outcome("failed", "worker died (at last), 3 times")}


def test_without_retries_the_first_death_is_the_end(tmp_path: Path) -> None:
    source, relay = make(tmp_path, 1, retries=0)
    relay.next()
    assert not relay.died("w0", "worker died (why)")
    assert source.outcomes == {"w0": Outcome("failed", "worker died (why)")}


def test_what_is_to_be_tried_again_comes_before_the_next(tmp_path: Path) -> None:
    _, relay = make(tmp_path)
    first = relay.next()
    relay.died("w0", "worker died")
    relay.hand_out_again("w0")
    relay.hand_out_again("w0")
    assert relay.next() is first
    second = relay.next()
    assert second is not None
    assert second.key == "w1"


def test_a_finished_work_is_not_handed_out_again(tmp_path: Path) -> None:
    _, relay = make(tmp_path, 1)
    relay.next()
    relay.hand_out_again("w0")
    relay.fail("w0", "it cannot be built")
    assert relay.next() is None


def test_lost_works_count_as_deaths_once(tmp_path: Path) -> None:
    source, relay = make(tmp_path, 2, retries=1)
    relay.next()
    relay.next()
    relay.died("w0", "worker died")
    relay.hand_out_again("w0")
    relay.lost("the executor fell over")
    assert source.outcomes == {}
    assert {work.key for work in (relay.next(), relay.next()) if work} == {"w0", "w1"}
    relay.lost("the executor fell over")
    assert source.outcomes == {key: Outcome("failed", "the executor fell over, 2 times") for key in ("w0", "w1")}


def test_late_words_about_a_finished_work_are_dropped(tmp_path: Path) -> None:
    source, relay = make(tmp_path, 1)
    relay.next()
    relay.fail("w0", "it cannot be built")
    assert not relay.report("w0", result(0))
    assert not relay.died("w0", "worker died")
    relay.fail("w0", "again")
    relay.interrupt()
    assert source.events == [("next", "w0"), ("finish", "w0", "failed")]


def test_interrupting_finishes_what_is_in_flight_and_hands_out_nothing_more(tmp_path: Path) -> None:
    source, relay = make(tmp_path)
    relay.next()
    relay.next()
    relay.interrupt()
    assert source.kinds() == {"w0": "interrupted", "w1": "interrupted"}
    assert relay.next() is None
    assert relay.done


@pytest.mark.parametrize("hook", ["next", "report", "finish"])
def test_a_source_that_raised_is_never_called_again(tmp_path: Path, hook: str) -> None:
    error = KeyboardInterrupt() if hook == "report" else OSError("disk full")

    def interfere(script: Script, event: tuple[Any, ...]) -> None:
        if event[0] == hook:
            raise error

    source, relay = make(tmp_path, on_event=interfere)
    relay.next()
    relay.report("w0", result(0))
    relay.report("w0", result(1))
    relay.interrupt()
    relay.next()
    assert relay.error is error
    assert relay.ending
    assert source.events[-1][0] == hook
    assert sum(event[0] == hook for event in source.events) == 1


def test_a_source_whose_stopping_raises_is_ended(tmp_path: Path) -> None:
    class Broken(Script):
        @property
        def stopping(self) -> bool:  # type: ignore[override]
            raise ValueError("no")

        @stopping.setter
        def stopping(self, value: bool) -> None:
            pass

    relay = Relay(Broken([make_work(tmp_path, "w")]), retries=0)
    assert relay.next() is None
    assert isinstance(relay.error, ValueError)


@given(st.lists(st.tuples(st.sampled_from(["next", "report", "fail", "died", "again", "lost"]), st.integers(0, 3))))
def test_whatever_happens_each_work_is_finished_exactly_once(moves: list[tuple[str, int]]) -> None:
    source = Script([make_work(Path("nowhere"), f"w{i}", rungs=2) for i in range(4)])
    relay = Relay(source, retries=1)
    for move, number in moves:
        key = f"w{number}"
        if move == "next":
            relay.next()
        elif move == "report":
            relay.report(key, result(number % 2))
        elif move == "fail":
            relay.fail(key, "cause")
        elif move == "died":
            relay.died(key, "cause")
        elif move == "again":
            relay.hand_out_again(key)
        else:
            relay.lost("cause")
        assert set(relay.in_flight) == set(source.handed_out()) - set(source.finished)
    relay.interrupt()
    assert source.finished == dict.fromkeys(source.handed_out(), 1)
