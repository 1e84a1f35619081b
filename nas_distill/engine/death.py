"""Cause of the death of a worker process, from its trace and from the executor's error."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from nas_distill.utils.errors import first_line

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def fault_file(folder: Path, key: str) -> Path:
    """Return where a worker has Python write the trace of a native crash of work ``key``."""
    return folder / f"{key}.fault"


def read_fault(folder: Path, key: str) -> str | None:
    """Return the native crash of work ``key`` in words, such as ``Segmentation fault in conv2d, layers.py:12``."""
    try:
        return fault_in(fault_file(folder, key).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def fault_in(trace: str) -> str | None:
    """Return the native crash that a trace of Python's tells of, in words; None where it tells of none."""
    lines = trace.splitlines()
    what = next((line.removeprefix("Fatal Python error: ") for line in lines if line.startswith("Fatal Python")), None)
    if what is None:
        return None
    frame = next((line.strip() for line in lines if line.strip().startswith("File ")), None)
    if frame is None:
        return what
    path, _, rest = frame.removeprefix('File "').partition('", line ')
    number, _, function = rest.partition(" in ")
    return f"{what} in {function}, {Path(path).name}:{number}"


def ended_as(code: int | None, fault: str | None) -> str:
    """Return why a worker died whose exit code is known, that of a signal being negative; None where it is not."""
    if fault is not None:
        return f"worker died ({fault})"
    if code == -signal.SIGKILL:
        return "worker died (killed by signal 9: by hand, or because memory ran short)"
    if code is not None and code < 0:
        return f"worker died (killed by signal {-code})"
    return "worker died" if code is None else f"worker died (its code ended the process with exit code {code})"


def cause_of_death(error: BaseException | None, fault: str | None) -> str:
    """Return in a few words why a worker died.

    ``error`` is what Ray raised for it, and ``fault`` what ``read_fault`` found. Ray does not know the signal by which
    a worker was killed, only that it went without a word; a crash that Python has traced is known exactly.
    """
    said = _COLOURS.sub("", str(error))
    if (inner := getattr(error, "as_instanceof_cause", None)) is not None:  # raised on the worker, not by the training
        return f"worker failed ({first_line(inner())})"
    if getattr(error, "actor_init_failed", False):
        return f"worker did not start ({said.strip().splitlines()[-1].strip()[:200]})"
    if fault is not None:
        return f"worker died ({fault})"
    if "OUT_OF_MEMORY" in said:
        return "worker died (ended by Ray, because memory ran short)"
    if "SYSTEM_ERROR" in said:
        return "worker died (killed, by hand or because memory ran short, or ended by its own code)"
    return f"worker died ({first_line(error, 200) if error else 'Ray does not say why'})"
