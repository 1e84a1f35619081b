"""FastNAS, run in its own environment, and its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from inherit_arms.fastnas import DESCRIPTION, WEIGHTS
from inherit_arms.jobs import Job
from inherit_arms.networks import Widths

SCRIPT = Path(__file__).with_name("fastnas.py")


class Peer:
    """FastNAS's results at each limit, in folders of their own under ``folder``."""

    def __init__(self, python: Path, folder: Path, *, root: str | None, options: list[str]) -> None:
        self._python = python
        self._folder = folder
        self._root = root
        self._options = options

    def there(self, name: str) -> bool:
        """Return whether a limit was searched."""
        return (self._folder / name / DESCRIPTION).exists()

    def weights(self, name: str) -> Path:
        return self._folder / name / WEIGHTS

    def found(self, name: str) -> dict[str, Any]:
        """Return what it wrote of a limit."""
        described: dict[str, Any] = json.loads((self._folder / name / DESCRIPTION).read_text(encoding="utf-8"))
        return described

    def widths(self, name: str) -> Widths:
        return Widths.of(load_file(self.weights(name)))

    def job(self, name: str, limit: float) -> Job:
        """Return what searches for a limit of multiply-adds."""
        folder = self._folder / name
        command = [str(self._python), str(SCRIPT), "--limit", str(limit), "--output", str(folder), *self._options]
        if self._root is not None:
            command += ["--root", self._root]
        return Job(f"FastNAS at {name} %", tuple(command), folder / "log.txt")
