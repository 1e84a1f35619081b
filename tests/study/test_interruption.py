"""Signals, and who takes them."""

import os
import signal
import threading

import pytest

from nas_distill.study.interruption import InterruptedSearchError, Interruption, interruptible, stoppable
from nas_distill.utils.errors import NasDistillError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_leaves(number):
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


def test_where_nobody_takes_it_the_block_is_left_at_once():
    reached = []

    def work():
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == []


def test_what_is_begun_after_a_signal_is_asked_to_stop_at_once():
    interruption, asked = Interruption(), []
    with interruption.stopping(lambda: asked.append("first")):
        interruption.handle(signal.SIGINT, None)
    with interruption.stopping(lambda: asked.append("second")):
        pass
    assert asked == ["first", "second"]


def test_handlers_are_given_back_and_nested_ones_too():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        middle = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with interruptible():
            assert signal.getsignal(signal.SIGINT) not in (*before, *middle)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == middle
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_taken():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with interruptible() as interruption:
            seen.append((signal.getsignal(signal.SIGINT), interruption.stop_requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_a_stoppable_block_says_how_to_go_on():
    with pytest.raises(InterruptedSearchError, match=r"^Stopped\. Call again\.$") as raised, stoppable("Call again."):
        os.kill(os.getpid(), signal.SIGINT)
    assert isinstance(raised.value, NasDistillError)
