"""Ctrl-C and SIGTERM at any phase; a second search beside the first."""

import os
import signal
import subprocess
import sys
import time

import pytest
from fault_support import accounted, press_ctrl_c, silent_about_ray

from nas_distill.study import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Rungs close together: where a trial reports, it can be stopped. Long, so that one is stopped before its end.
LONG = {"epochs": 20, "batch_size": 16, "rungs": [place / 12 for place in range(1, 13)]}


def terminate(driver):
    os.kill(driver.pid, signal.SIGTERM)


def stopped_cleanly(driver, run):
    code, out, errors = driver.end()
    assert code == 130, errors
    assert errors.startswith("Stopped. ")
    assert errors.count("\n") == 1
    assert str(run) in errors
    assert "--resume" in errors
    assert silent_about_ray(out, "")
    records = open_run(run).records
    assert not [record for record in records if record.state == "running"]
    return out, records


def just_begun(records):
    """The numbers of the trials that are being trained and have most of their training before them."""
    return [record.number for record in records if record.state == "running" and len(record.reports) <= 4]


@pytest.mark.parametrize("backend", ["inline", "tune"])
def test_a_search_that_is_asked_to_stop_does_and_goes_on_when_resumed(launch, search_file, tmp_path, backend):
    settings = {"trials": 5, "backend": backend, "workers": 2, "pruning": {"rule": "none"}}
    file = search_file(search=settings, score=LONG, final={"baseline": False})
    done = 0
    for stop in (terminate, press_ctrl_c):
        driver = launch(file, "--resume")
        driver.wait_for(f"[{done + 1}/5] trial")
        begun = driver.wait_until(lambda driver=driver: just_begun(driver.records()))
        assert begun, driver.end()
        stop(driver)
        out, records = stopped_cleanly(driver, tmp_path / "small")
        assert "Stopping" in out
        assert "finished work is kept" in out
        # They need not be the last: the search may have been noting proposals that it does not train.
        assert {records[number].state for number in begun} == {"interrupted"}
        done = sum(record.state == "complete" for record in records)
        assert done < 5
    code, out, errors = launch(file, "--resume").end()
    assert (code, errors) == (0, "")
    run = accounted(tmp_path / "small", 5)
    interrupted = [record for record in run.records if record.state == "interrupted"]
    assert {record.interrupted for record in interrupted} == {"stopped"}


def test_every_phase_can_be_stopped(launch, search_file, teacher_folder, tmp_path):
    file = search_file(
        search={"trials": 3, "pruning": {"margin": "auto", "probe_seeds": 2}},
        latency={"calibrate": 12},
        final={"epochs": 4, "baseline": False},
        teacher={"name": str(teacher_folder), "store": str(tmp_path / "store")},
    )
    phases = ["latency calibration", "teacher store", "survey of the space", "noise probe", "search"]
    phases += ["full distillation", "export", "evaluation"]
    stopped = []
    while phases:
        driver = launch(file, "--resume")
        # One that is over when the phase before it was stopped, as the noise probe may be, does not come again.
        phase = driver.wait_for_phase(phases)
        phases = phases[phases.index(phase) + 1 :]
        time.sleep(0.05)
        press_ctrl_c(driver)
        code, out, errors = driver.end()
        assert "Traceback" not in out + errors
        assert code in (0, 130), errors
        if code == 0:
            break
        assert errors.startswith("Stopped. ")
        stopped.append(phase)
    assert len(stopped) >= 6
    if not open_run(tmp_path / "small").finished:
        assert launch(file, "--resume").end()[0] == 0
    accounted(tmp_path / "small", 3)


def test_pressed_twice_it_leaves_at_once_and_still_goes_on(launch, search_file, tmp_path):
    settings = {"trials": 3, "backend": "inline", "pruning": {"rule": "none"}}
    file = search_file(search=settings, score={"epochs": 300, "batch_size": 16, "rungs": [0.5, 1]})
    driver = launch(file)
    driver.wait_until(lambda: just_begun(driver.records()))
    time.sleep(1)
    press_ctrl_c(driver)
    driver.wait_for("Press Ctrl-C again")
    press_ctrl_c(driver)
    _, records = stopped_cleanly(driver, tmp_path / "small")
    assert [record.state for record in records] == ["interrupted"]
    assert not records[0].reports


def test_a_second_search_of_the_same_run_is_refused_while_the_first_goes_on(launch, search_file, tmp_path):
    file = search_file(search={"trials": 3}, score={"epochs": 20}, final={"baseline": False})
    first = launch(file)
    first.wait_for("[1/3] trial")
    first.process.send_signal(signal.SIGSTOP)  # so that it has not ended before the other one has looked
    code, out, errors = launch(file, "--resume", "--quiet").end()
    assert (code, out) == (2, "")
    assert f"{tmp_path / 'small'} is in use by process {first.pid}" in errors
    assert errors.count("\n") == 1
    command = [sys.executable, "-m", "nas_distill.cli", "status", str(tmp_path / "small")]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "state: running" in status
    assert f"process: {first.pid}" in status
    first.process.send_signal(signal.SIGCONT)
    code, out, errors = first.end()
    assert (code, errors) == (0, "")
    accounted(tmp_path / "small", 3)
