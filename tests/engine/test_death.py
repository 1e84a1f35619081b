from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas_distill.engine.death import cause_of_death, fault_file, read_fault

CRASHES = {
    "import ctypes; ctypes.string_at(0)": "Segmentation fault in string_at, __init__.py:",
    "import os; os.abort()": "Aborted in <module>, <string>:",
    "import os, signal; os.kill(os.getpid(), signal.SIGBUS)": "Bus error in <module>, <string>:",
}


@pytest.mark.parametrize("code", CRASHES)
def test_a_native_crash_is_read_from_its_trace(tmp_path: Path, code: str) -> None:
    watch = (
        f"import faulthandler; faulthandler.enable(open({str(fault_file(tmp_path, 'w'))!r}, 'w'), all_threads=False)"
    )
    done = subprocess.run([sys.executable, "-c", f"{watch}\n{code}"], capture_output=True)
    assert done.returncode < 0
    found = read_fault(tmp_path, "w")
    assert found is not None
    assert found.startswith(CRASHES[code])


def test_no_trace_or_one_without_a_crash_is_none(tmp_path: Path) -> None:
    assert read_fault(tmp_path, "w") is None
    fault_file(tmp_path, "w").write_text("")
    assert read_fault(tmp_path, "w") is None


def test_a_crash_without_a_frame_is_still_named(tmp_path: Path) -> None:
    fault_file(tmp_path, "w").write_text("Fatal Python error: Aborted\n\n<no Python frame>\n")
    assert read_fault(tmp_path, "w") == "Aborted"


class TaskError(Exception):
    def as_instanceof_cause(self) -> Exception:
        return ValueError("not picklable")


class InitError(Exception):
    actor_init_failed = True


@pytest.mark.parametrize(
    ("error", "fault", "cause"),
    [
        (None, "Aborted", "worker died (Aborted)"),
        (Exception("Worker exit type: SYSTEM_ERROR"), "Bus error", "worker died (Bus error)"),
        (
            Exception("Worker exit type: SYSTEM_ERROR Worker exit detail: connection error code 2"),
            None,
            "worker died (killed, by hand or because memory ran short, or ended by its own code)",
        ),
        (
            Exception("Worker exit type: NODE_OUT_OF_MEMORY"),
            None,
            "worker died (ended by Ray, because memory ran short)",
        ),
        (Exception("something else"), None, "worker died (Exception: something else)"),
        (None, None, "worker died (Ray does not say why)"),
        (TaskError(), None, "worker failed (ValueError: not picklable)"),
        (
            InitError("died in its creation task\nModuleNotFoundError: No module named 'x'\n"),
            None,
            "worker did not start (ModuleNotFoundError: No module named 'x')",
        ),
    ],
)
def test_what_ray_says_becomes_a_few_words(error: Exception | None, fault: str | None, cause: str) -> None:
    assert cause_of_death(error, fault) == cause
