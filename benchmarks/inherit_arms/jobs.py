"""Processes of one thread each, several at a time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainings import say

from nas_distill.study.interruption import InterruptedSearchError, Interruption

_POLL = 0.2


@dataclass(frozen=True)
class Job:
    """A command, and the file that gets what it prints."""

    name: str
    command: tuple[str, ...]
    log: Path

    def start(self) -> subprocess.Popen[bytes]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads},
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            )


def run_jobs(jobs: Sequence[Job], interruption: Interruption, *, workers: int) -> None:
    """Run all jobs, the first ones first.

    Raises:
        InterruptedSearchError: it was asked to stop; what ran was asked to end, and has.
        SystemExit: a job failed; those that ran beside it were ended.
    """
    waiting = list(jobs)
    running: dict[Job, subprocess.Popen[bytes]] = {}

    def end() -> None:
        waiting.clear()
        for process in running.values():
            process.terminate()

    failed: Job | None = None
    try:
        with interruption.stopping(end):
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    say(f"{job.name}: begun.")
                    running[job] = job.start()
                time.sleep(_POLL)
                for job in [job for job, process in running.items() if process.poll() is not None]:
                    if running.pop(job).returncode and not interruption.stop_requested:
                        failed = failed or job
                        end()
    finally:
        end()
    if failed is not None:
        raise SystemExit(f"{failed.name} failed; see {failed.log}.")
    if interruption.stop_requested:
        raise InterruptedSearchError("Stopped.")
