"""Stop signals and their handlers."""

import os
import signal
import threading

import pytest

from nas_distill.study.interruption import InterruptedSearchError, Interruption, interruptible, stoppable
from nas_distill.utils.errors import NasDistillError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_the_second_leaves_the_block(number):
    asked = []

    def work():
        with interruptible() as interruption, interruption.stopping(lambda: asked.append("stop")):
            os.kill(os.getpid(), number)
            asked.append("went on")
            os.kill(os.getpid(), number)
            asked.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert asked == ["stop", "went on"]


def test_without_a_stop_function_a_signal_leaves_the_block():
    reached = []

    def work():
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == []


def test_work_started_after_a_signal_is_stopped_at_once():
    interruption, asked = Interruption(), []
    with interruption.stopping(lambda: asked.append("first")):
        interruption.handle(signal.SIGINT, None)
    with interruption.stopping(lambda: asked.append("second")):
        pass
    assert asked == ["first", "second"]


def test_signal_handlers_are_restored_also_when_nested():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        middle = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with interruptible():
            assert signal.getsignal(signal.SIGINT) not in (*before, *middle)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == middle
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_no_handler_is_set():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with interruptible() as interruption:
            seen.append((signal.getsignal(signal.SIGINT), interruption.stop_requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_a_stoppable_block_says_how_to_resume():
    with pytest.raises(InterruptedSearchError, match=r"^Stopped\. Call again\.$") as raised, stoppable("Call again."):
        os.kill(os.getpid(), signal.SIGINT)
    assert isinstance(raised.value, NasDistillError)
