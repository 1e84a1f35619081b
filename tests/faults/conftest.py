"""Starts searches in processes of their own, and ends whatever is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault_support import Driver


@pytest.fixture
def launch() -> Iterator[Callable[..., Driver]]:
    """Starts a search of a file."""
    started: list[Driver] = []

    def start(file: Path, *arguments: str) -> Driver:
        process = subprocess.Popen(
            [sys.executable, "-m", "nas_distill.cli", "search", str(file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # a group of its own, to which a terminal's Ctrl-C can be sent
        )
        started.append(Driver(process, file.with_suffix("") / "study.journal"))
        return started[-1]

    yield start
    for driver in started:
        driver.clean()
