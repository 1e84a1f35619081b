"""What is known of a run as a whole, kept in its journal beside the trials (as the study's user attributes)."""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_distill.run.folder import RunFolder
    from nas_distill.run.journal import Journal

# Names in use. Others are allowed; these are what later commands look for.
IDENTITY = "identity"  # section of the search -> digest: what scores depend on (run/identity.py)
OBJECTIVES = "objectives"  # names of the told values, in order
BUDGET = "budget"  # cost -> [low | null, high | null], resolved
REFERENCE = "reference"  # cost -> the reference of the hypervolume
SEEDS = "seeds"  # the architectures tried first
MARGIN = "margin"  # the pruning margin in use, one number or one a rung
SEED = "seed"
HOST = "host"
VERSIONS = "versions"
DATA = "data"  # name and fingerprint of the data
TEACHER = "teacher"  # name, costs and evaluation of the teacher
TEACHER_LATENCY = "teacher_latency_ms"  # measured beside the calibration; null where it could not be
LATENCY_MODEL = "latency_model"
COSTS_TABLE = "costs_table"  # the table shown before the search
TIMINGS = "timings"  # seconds of the phases of a run, over all sessions; "other" is what no phase accounts for
PHASE = "phase"  # the phase that a run is in
GUESS = "guess"  # validation quality of always giving the same answer
STORE = "store"  # key, bytes, samples of the teacher's stored answers, and the seconds they took
WHOLE = "left_whole"  # modules of the teacher that no student is cut in, each with its reason
BLOCKS = "blocks"  # alternatives of blocks that were distilled before, and samples presented to them
BLOCK_WEIGHTS = "block_weights"  # of local scores, fitted to assembled students, and how both rank these
STARTUP = "startup_seconds"  # waited for workers to begin
MEASURED_LATENCY = "measured_latency_ms"  # training -> ms, of candidates for finalists under a latency limit
FINALISTS = "finalists"
EXPORTS = "exports"  # training, or "teacher" -> file, parity, latency
EVALUATION = "evaluation"
TASK = "task"  # what networks tell of a sample; a classification unless it is there
BASE = "base"  # where relative files are looked for, as seen from the run's folder
ENDED = "ended"  # why the trials ended: a sentence
OTHER = "other"  # among the timings: the time between phases
FINISHED = "finished"  # true once there is nothing left to resume


class Facts(Mapping[str, Any]):
    """Named JSON values of a run. With a journal they can be set; without one they can only be read."""

    def __init__(self, values: Mapping[str, Any], journal: Journal | None = None) -> None:
        self._values = dict(values)
        self._journal = journal

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def set(self, name: str, value: Any) -> None:
        """Write a fact to the journal; a value that is there already is not written again.

        Raises:
            TypeError: the value is no JSON, or the run was opened for reading.
            RunError: the journal cannot be written.
        """
        plain = json.loads(json.dumps(value))
        if name in self._values and self._values[name] == plain:
            return
        if self._journal is None:
            raise TypeError("this run was opened for reading; facts are set by the process that holds its lock")
        self._journal.set_fact(name, plain)
        self._values[name] = plain

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, so that there is nothing to resume."""
        return bool(self._values.get(FINISHED, False))

    def record_environment(self, seed: int) -> None:
        """Note the seed, the host and the versions of what computes; a resumed run keeps those it started with."""
        for name, value in ((SEED, seed), (HOST, host()), (VERSIONS, versions())):
            if name not in self._values:
                self.set(name, value)

    def changed_versions(self) -> dict[str, tuple[str, str]]:
        """Return what computes scores and is of another version now than when the run began: name -> (then, now)."""
        then, now = self._values.get(VERSIONS, {}), versions()
        return {
            name: (then[name], now[name])
            for name in ("python", "nas-distill", "torch")
            if name in then and name in now and then[name] != now[name]
        }


def read_facts(folder: RunFolder) -> Facts:
    """Read a run's facts without touching it, also while another process writes it.

    Raises:
        RunError: there is no run, or its journal cannot be read.
    """
    from nas_distill.run.journal import NotBegunError, read_study

    try:
        return Facts(read_study(folder).user_attrs)
    except NotBegunError:
        return Facts({})


def host() -> dict[str, str]:
    """Return what figures of time depend on: machine name, system, processor."""
    return {"name": socket.gethostname(), "system": platform.platform(), "processor": _processor()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on, as far as installed."""
    found = {"python": platform.python_version()}
    for package in ("nas-distill", "torch", "optuna", "ray", "numpy", "onnx", "onnxruntime", "fvcore"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
