"""What is computed in a copy of this process."""

import os
import signal
import sys
import time

import pytest
import torch

from nas_distill.engine.apart import ApartError, compute_apart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no safe fork here")


def no_children():
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return True


def test_the_answer_comes_back_and_nothing_else_changes():
    before = [os.getpid()]

    def compute():
        before.append(-1)
        return 0.1 + 0.2

    assert compute_apart(compute, seconds=60) == 0.1 + 0.2
    assert before == [os.getpid()]
    assert no_children()


def test_torch_trains_in_the_copy_after_it_has_trained_here():
    def train():
        torch.set_num_threads(1)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Flatten(), torch.nn.LazyLinear(10))
        loss = net(torch.ones(64, 3, 16, 16)).square().mean()
        loss.backward()
        return loss.item()

    torch.ones(300, 300).matmul(torch.ones(300, 300))
    train()
    assert compute_apart(train, seconds=120) >= 0


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (os.abort, "status -6"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "status -9"),
        (lambda: sys.exit(3), "SystemExit: 3"),
    ],
)
def test_how_it_ended_is_told(compute, expected, capfd):
    with pytest.raises(ApartError, match=expected):
        compute_apart(compute, seconds=60)
    assert capfd.readouterr() == ("", "")
    assert no_children()


def test_it_is_not_waited_for_without_end():
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 seconds"):
        compute_apart(lambda: time.sleep(600), seconds=0.2)
    assert no_children()
