"""Workers that die: killed from outside, or by what they were given to train."""

import pytest
from fault_support import accounted, silent_about_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = {"epochs": 6, "batch_size": 16}

CRASHING = """
import os
import time
from torch import nn

class Crashes(nn.Sequential):
    def forward(self, x):
        if self.training:
            os.abort()
        return super().forward(x)

def build(width, depth, input_shape, num_classes):
    kind = Crashes if width == 12 else nn.Sequential
    layers = [nn.Linear(64, width), *[nn.Linear(width, width) for _ in range(depth)]]
    return kind(nn.Flatten(), *layers, nn.Linear(width, num_classes))
"""


def kill_a_worker(driver):
    """Kill one that has reported a rung, and so is in the middle of a trial."""
    driver.wait_until(lambda: driver.journal.exists() and b"rung:0" in driver.journal.read_bytes())
    workers = driver.wait_until(driver.workers)
    assert workers, driver.end()
    workers[0].kill()


def test_a_trial_whose_worker_is_killed_goes_on_elsewhere(launch, search_file, tmp_path):
    settings = {"trials": 4, "backend": "tune", "workers": 2, "pruning": {"rule": "none"}}
    driver = launch(search_file(search=settings, score=LONG, final={"baseline": False}))
    kill_a_worker(driver)
    code, out, errors = driver.end()
    assert (code, errors) == (0, "")
    assert silent_about_ray(out, errors)
    run = accounted(tmp_path / "small", 4)
    assert [record.state for record in run.records if record.trained] == ["complete"] * 4


def test_without_retries_it_is_recorded_with_the_cause(launch, search_file, tmp_path):
    settings = {"trials": 3, "backend": "tune", "workers": 1, "retries": 0, "pruning": {"rule": "none"}}
    driver = launch(search_file(search=settings, score=LONG, final={"baseline": False}))
    kill_a_worker(driver)
    code, out, errors = driver.end()
    assert (code, errors) == (0, "")
    assert silent_about_ray(out, errors)
    run = accounted(tmp_path / "small", 3)
    (failed,) = [record for record in run.records if record.state == "failed"]
    assert "worker died" in failed.cause
    assert f"trial {failed.number} failed: worker died" in out


def test_a_native_crash_loses_its_trial_alone(launch, search_file, tmp_path):
    (tmp_path / "crashing.py").write_text(CRASHING)
    space = {"builder": "crashing:build", "parameters": {"width": [4, 8, 12], "depth": [0, 1]}}
    search = {"trials": 6, "backend": "tune", "workers": 2, "pruning": {"rule": "none"}}
    file = search_file(space=space, budget={}, search=search, final={"baseline": False})
    code, out, errors = launch(file).end()
    assert (code, errors) == (0, "")
    assert silent_about_ray(out, errors)
    run = accounted(tmp_path / "small", 6)
    failed = [record for record in run.records if record.state == "failed"]
    assert {record.architecture.values["width"] for record in failed} == {12}
    assert len(failed) == 2
    for record in failed:
        assert record.cause == "worker died (Aborted in forward, crashing.py:9), 2 times"
    assert "Failed: 2." in out
