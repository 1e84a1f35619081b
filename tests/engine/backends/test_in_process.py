from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas_distill.config import TrainingConfig
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.work import Outcome, RungResult, Work
from nas_distill.spaces import Architecture
from nas_distill.utils.errors import TrainingError

RUNGS = (0.25, 0.5, 1.0)


class Source:
    """Hands out ``count`` works and notes what it hears."""

    def __init__(self, count: int, answer: Callable[[str, RungResult], bool] = lambda key, result: True) -> None:
        self.stopping = False
        self.heard: list[Any] = []
        self._left = [Work(f"w{i}", Architecture({"i": i}), TrainingConfig(), RUNGS, 0, Path()) for i in range(count)]
        self._answer = answer

    def next(self) -> Work | None:
        return self._left.pop(0) if self._left else None

    def report(self, key: str, result: RungResult) -> bool:
        self.heard.append((key, result.rung))
        return self._answer(key, result)

    def finish(self, key: str, outcome: Outcome) -> None:
        self.heard.append((key, outcome.kind, outcome.cause))


class Trainer:
    """Reports rung after rung, from ``first`` on; raises ``error`` at rung ``at`` (-1: when it is started)."""

    def __init__(self, error: BaseException | None = None, at: int = -1, first: int = 0) -> None:
        self.closed: list[str] = []
        self._error, self._at, self._first = error, at, first

    def start(self, work: Work) -> "Run":
        if self._error is not None and self._at == -1:
            raise self._error
        return Run(self, work)


class Run:
    def __init__(self, trainer: Trainer, work: Work) -> None:
        self._trainer, self._work, self._rung = trainer, work, trainer._first

    def next_rung(self) -> RungResult:
        if self._trainer._error is not None and self._trainer._at == self._rung:
            raise self._trainer._error
        self._rung += 1
        return RungResult(self._rung - 1, self._rung, 0.5, 1.0)

    def close(self) -> None:
        self._trainer.closed.append(self._work.key)
        raise OSError("closing went wrong, which changes nothing")


def test_works_run_one_after_another_to_their_end() -> None:
    source, trainer = Source(2), Trainer()
    InProcessBackend().run(source, trainer)
    assert source.heard == [
        *[("w0", 0), ("w0", 1), ("w0", 2), ("w0", "complete", None)],
        *[("w1", 0), ("w1", 1), ("w1", 2), ("w1", "complete", None)],
    ]
    assert trainer.closed == ["w0", "w1"]


def test_a_work_that_continues_from_a_checkpoint_ends_at_its_last_rung() -> None:
    source = Source(1)
    InProcessBackend().run(source, Trainer(first=2))
    assert source.heard == [("w0", 2), ("w0", "complete", None)]


def test_the_source_stops_a_work() -> None:
    source, trainer = Source(1, lambda key, result: result.rung < 1), Trainer()
    InProcessBackend().run(source, trainer)
    assert source.heard == [("w0", 0), ("w0", 1), ("w0", "stopped", None)]
    assert trainer.closed == ["w0"]


@pytest.mark.parametrize("at", [-1, 0, 1])
@pytest.mark.parametrize(
    ("error", "cause"),
    [(TrainingError("the loss is nan"), "the loss is nan"), (ValueError("bad\nshape"), "ValueError: bad shape")],
)
def test_what_a_training_raises_fails_it_and_the_next_begins(at: int, error: Exception, cause: str) -> None:
    source, trainer = Source(2), Trainer(error, at)
    InProcessBackend().run(source, trainer)
    assert [heard for heard in source.heard if len(heard) == 3] == [("w0", "failed", cause), ("w1", "failed", cause)]
    assert trainer.closed == ([] if at == -1 else ["w0", "w1"])


def test_a_stopping_source_gets_what_is_in_flight_back_as_interrupted() -> None:
    def stop(key: str, result: RungResult) -> bool:
        source.stopping = True
        return True

    source = Source(2, stop)
    InProcessBackend().run(source, Trainer())
    assert source.heard == [("w0", 0), ("w0", "interrupted", None)]


def test_what_is_handed_out_as_the_source_is_asked_to_stop_is_not_begun() -> None:
    class Asked(Source):
        def next(self) -> Work | None:
            self.stopping = True
            return super().next()

    source, trainer = Asked(2), Trainer(ZeroDivisionError())
    InProcessBackend().run(source, trainer)
    assert source.heard == [("w0", "interrupted", None)]


def test_a_source_that_stops_at_the_last_rung_has_a_complete_work() -> None:
    def stop(key: str, result: RungResult) -> bool:
        source.stopping = result.rung == 2
        return True

    source = Source(2, stop)
    InProcessBackend().run(source, Trainer())
    assert source.heard[-1] == ("w0", "complete", None)


def test_a_keyboard_interrupt_interrupts_the_work_and_is_raised() -> None:
    source, trainer = Source(2), Trainer(KeyboardInterrupt(), at=1)
    with pytest.raises(KeyboardInterrupt):
        InProcessBackend().run(source, trainer)
    assert source.heard == [("w0", 0), ("w0", "interrupted", None)]
    assert trainer.closed == ["w0"]


def test_errors_of_the_source_are_raised_after_the_training_is_closed() -> None:
    def broken(key: str, result: RungResult) -> bool:
        raise ZeroDivisionError

    source, trainer = Source(2, broken), Trainer()
    with pytest.raises(ZeroDivisionError):
        InProcessBackend().run(source, trainer)
    assert source.heard == [("w0", 0)]
    assert trainer.closed == ["w0"]
