"""Run folder that workers on several nodes must see: a token in it, which each worker compares."""

from __future__ import annotations

import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nas_distill.utils.errors import StorageError
from nas_distill.utils.files import write_text

NAME = ".shared"
PATIENCE = 15.0  # seconds that a network file system may take to show what another node has written


@dataclass(frozen=True)
class SharedFolder:
    """A folder with a token in it, as the driver sees it; picklable."""

    path: Path
    token: str

    @classmethod
    def mark(cls, folder: Path) -> Self:
        """Write a new token into a folder.

        Raises:
            OSError: it cannot be written.
        """
        marked = cls(folder.absolute(), secrets.token_hex(8))
        write_text(marked.path / NAME, marked.token)
        return marked

    def unmark(self) -> None:
        """Remove the token."""
        with suppress(OSError):
            (self.path / NAME).unlink(missing_ok=True)

    def check(self, patience: float = PATIENCE) -> None:
        """Check that this process sees the folder under its path; wait up to ``patience`` seconds for the token.

        Raises:
            StorageError: it does not, so that whatever it wrote there would be lost.
        """
        end = time.monotonic() + patience
        while not self._seen():
            if time.monotonic() >= end:
                raise StorageError(
                    f"The node '{socket.gethostname()}' does not see the run folder {self.path}; use a folder that all "
                    "nodes of the cluster mount under the same path. What was finished is kept: resume."
                )
            time.sleep(min(1.0, patience))

    def _seen(self) -> bool:
        try:
            return (self.path / NAME).read_text(encoding="utf-8") == self.token
        except (OSError, UnicodeDecodeError):
            return False
