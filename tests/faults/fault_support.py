"""Real searches in processes of their own, and what must be true of their runs whatever was done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nas_distill.runs.records import TrialRecord
from nas_distill.study import open_run
from nas_distill.study.run import Run
from nas_distill.utils.errors import RunError

PATIENCE = 240.0  # seconds; a search here takes seconds on a quiet machine


@dataclass(eq=False)
class Driver:
    """A process of the command line. Everything that it starts is its descendant, and is ended with the test."""

    process: subprocess.Popen[str]
    journal: Path
    lines: list[str] = field(default_factory=list)
    family: set[psutil.Process] = field(default_factory=set)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, text: str) -> str:
        """Read its output up to a line with ``text``, and return that."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} did not come: {''.join(self.lines)} {self.end()}")

    def wait_for_phase(self, phases: Sequence[str]) -> str:
        """Read its output up to the line that begins one of ``phases``, and return that."""
        lines = {f"{phase}\n" for phase in phases}
        while (line := self.wait_for("\n")) not in lines:
            pass
        return line.strip()

    def wait_until(self, true: Callable[[], Any]) -> Any:
        """Wait until ``true`` is, or the process has ended; return what it was at last."""
        end = time.monotonic() + PATIENCE
        while not (found := true()) and self.process.poll() is None:
            assert time.monotonic() < end, f"waited too long: {''.join(self.lines)}"
            time.sleep(0.002)
        return found

    def records(self) -> list[TrialRecord]:
        """Return what its journal holds now; nothing as long as there is none."""
        with suppress(RunError):
            return open_run(self.journal.parent).records
        return []

    def workers(self) -> list[psutil.Process]:
        """Return Ray's worker processes that train for this driver and for no other."""
        return [process for process in self.watch() if "Trainable" in _title(process)]

    def watch(self) -> set[psutil.Process]:
        """Note what it has started so far, so that it can be ended even when this process is gone."""
        with suppress(psutil.NoSuchProcess):
            self.family |= set(psutil.Process(self.pid).children(recursive=True))
        return self.family

    def kill(self) -> None:
        self.watch()
        self.process.kill()

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code and all of its output."""
        end = time.monotonic() + PATIENCE
        while True:
            self.watch()
            with suppress(subprocess.TimeoutExpired):
                out, errors = self.process.communicate(timeout=1)
                return self.process.returncode, "".join(self.lines) + out, errors
            assert time.monotonic() < end, "it does not end"

    def clean(self) -> None:
        self.watch()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        _, alive = psutil.wait_procs(list(self.family), timeout=20)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) if process.is_running() else ""
    except psutil.Error:
        return ""


def press_ctrl_c(driver: Driver) -> None:
    """Send what a terminal sends: to the driver and to all in its group."""
    os.killpg(driver.pid, signal.SIGINT)


def accounted(run_folder: Path, trials: int) -> Run:
    """Check that everything requested was done exactly once and everything else came to its end; return the run."""
    run = open_run(run_folder)
    trained = [record for record in run.records if record.trained]
    assert len(trained) == trials
    assert len({record.architecture for record in trained}) == trials, "one was trained twice"
    assert not [record for record in run.records if record.state == "running"]
    again = {record.retry_of for record in run.records}
    assert {record.number for record in run.records if record.state == "interrupted"} <= again, "one was lost"
    assert run.finished
    assert list(run.folder.checkpoints.iterdir()) == []
    assert all(entry.full is not None for entry in run.finalists())
    assert run.report().student.evaluation is not None
    assert run.folder.card_md.exists()
    assert run.folder.front_png.exists()
    assert run.status()["trained"] == trials
    for student in run.best().students():
        assert (student.folder / "model.onnx").exists()
    return run


def silent_about_ray(out: str, errors: str) -> bool:
    """Nothing of Ray, Optuna or torch on the terminal, and no traceback."""
    said = (out + errors).lower()
    found = [word for word in ("ray", "optuna", "traceback", "warning", "raylet", "(pid=") if word in said.split()]
    assert found == [], said
    assert "Traceback" not in out + errors
    assert "ray::" not in out + errors
    return True
