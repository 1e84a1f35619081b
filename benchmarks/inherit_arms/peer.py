"""Running FastNAS in the environment of its own that it needs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from inherit_arms.fastnas import DESCRIPTION, WEIGHTS
from inherit_arms.networks import Widths
from nas_distill.api.interruption import InterruptedSearchError, Interruption

SCRIPT = Path(__file__).with_name("fastnas.py")
LOG = "log.txt"


class Peer:
    """FastNAS's results at each limit, in folders of their own; what is there is not searched again."""

    def __init__(self, python: Path, folder: Path, *, root: str | None, options: list[str]) -> None:
        self._python = python
        self._folder = folder
        self._root = root
        self._options = options

    def weights(self, name: str) -> Path:
        return self._folder / name / WEIGHTS

    def there(self, name: str) -> bool:
        """Say whether a limit was searched."""
        return (self._folder / name / DESCRIPTION).exists()

    def found(self, name: str) -> dict[str, Any]:
        """Return what it wrote of a limit."""
        described: dict[str, Any] = json.loads((self._folder / name / DESCRIPTION).read_text(encoding="utf-8"))
        return described

    def widths(self, name: str) -> Widths:
        return Widths.of(load_file(self.weights(name)))

    def prune(self, limits: dict[str, float], interruption: Interruption, *, workers: int) -> None:
        """Prune to each limit (multiply-adds, by name) that is missing, several at a time.

        Raises:
            InterruptedSearchError: it was asked to stop.
            SystemExit: FastNAS failed.
        """
        waiting = [name for name in limits if not self.there(name)]
        while waiting:
            together, waiting = waiting[:workers], waiting[workers:]
            running = {name: self._start(name, limits[name]) for name in together}

            def end(running: dict[str, subprocess.Popen[bytes]] = running) -> None:
                for process in running.values():
                    process.terminate()

            try:
                with interruption.stopping(end):
                    codes = {name: process.wait() for name, process in running.items()}
            finally:
                end()
            if interruption.asked:
                raise InterruptedSearchError("Stopped.")
            for name, code in codes.items():
                if code:
                    raise SystemExit(f"FastNAS failed for limit {name}; see {self._folder / name / LOG}.")

    def _start(self, name: str, limit: float) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(self._python), str(SCRIPT), "--limit", str(limit), "--output", str(folder), *self._options]
        if self._root is not None:
            command += ["--root", self._root]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with (folder / LOG).open("wb") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads},
                start_new_session=True,  # Ctrl-C is for this process, which ends the other
            )
