"""Layout, lock and identity of a run's folder."""

from __future__ import annotations

import glob
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas_distill.utils.errors import RunError


class RunFolder:
    """Paths inside one run's folder, and the lock that says who writes there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._held = False

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def search_yaml(self) -> Path:
        """The search file as it was resolved, every default spelt out."""
        return self.path / "search.yaml"

    @property
    def journal(self) -> Path:
        """The Optuna journal: the one truth about the run."""
        return self.path / "study.journal"

    @property
    def trials_csv(self) -> Path:
        """One line a trial, for spreadsheets; derived from the journal."""
        return self.path / "trials.csv"

    @property
    def front_png(self) -> Path:
        """The picture of the front."""
        return self.path / "front.png"

    @property
    def card_md(self) -> Path:
        """The student card."""
        return self.path / "card.md"

    @property
    def students(self) -> Path:
        """Folder of finished students, one folder each."""
        return self.path / "students"

    @property
    def checkpoints(self) -> Path:
        """Folder of trainings in flight, one folder each."""
        return self.path / "checkpoints"

    @property
    def plan(self) -> Path:
        """File of the pruning plan of the teacher, where students are cut from it; can be computed again."""
        return self.path / "plan.json"

    @property
    def allocation(self) -> Path:
        """File of the judged candidates of an allocation search; can be computed again."""
        return self.path / "allocation.json"

    @property
    def blocks(self) -> Path:
        """Folder of the library of distilled blocks, for blockwise searches."""
        return self.path / "blocks"

    @property
    def lock_file(self) -> Path:
        """The file that the writing process holds locked."""
        return self.path / ".lock"

    def student(self, key: str) -> Path:
        """Return the folder of the student called ``key``.

        Raises:
            RunError: the key, which may come from a file, is not the name of a folder.
        """
        return self.students / _plain(key)

    def checkpoint(self, key: str) -> Path:
        """Return the folder where the training called ``key`` saves itself.

        Raises:
            RunError: the key, which may come from a file, is not the name of a folder.
        """
        return self.checkpoints / _plain(key)

    @property
    def exists(self) -> bool:
        """True if a run was started here."""
        return self.journal.exists()

    @property
    def locked(self) -> bool:
        """True if this object holds the folder's lock."""
        return self._held

    @property
    def process(self) -> int | None:
        """The process of this machine that writes here now; None when none does."""
        # Not by trying the lock: held for a moment only, it would still refuse a search that begins at that moment.
        try:
            holder = json.loads(self.lock_file.read_text(encoding="utf-8"))
            if holder["host"] != socket.gethostname():
                return None
            os.kill(holder["pid"], 0)
            return int(holder["pid"])
        except PermissionError:
            return int(holder["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def require(self) -> RunFolder:
        """Return self.

        Raises:
            RunError: there is no run here.
        """
        if not self.exists:
            what = "holds no run (it has no study.journal)" if self.path.is_dir() else "does not exist"
            raise RunError(f"{self.path} {what}; give the folder that 'nas-distill search' wrote.")
        return self

    def create(self) -> RunFolder:
        """Make the folder where it is missing, and return self.

        Raises:
            RunError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"the run folder {self.path} cannot be made ({error.strerror}); choose another.") from error
        return self

    @contextmanager
    def lock(self) -> Iterator[RunFolder]:
        """Hold the folder for writing until the block ends; the system lets go of it when the process dies.

        Raises:
            RunError: another process (or this one) holds it; its number and host are named. Does not wait.
        """
        import fcntl

        self.create()
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error.strerror}); check its permissions.") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"{self.path} is in use by {self._holder()}; wait until it ends, or stop it, or search elsewhere."
                ) from error
            self._write_holder(descriptor)
            self._held = True
            try:
                yield self
            finally:
                self._held = False
                # The file stays: removing it would let two processes lock two files of one name.
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _write_holder(self, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        # On a full disk the lock still holds; only its holder cannot be named.
        with suppress(OSError):
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def _holder(self) -> str:
        try:
            holder = json.loads(self.lock_file.read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"


def series(base: Path) -> list[RunFolder]:
    """Return the folders that runs of one search file have taken, oldest first: ``base``, ``base-2``, ``base-3``."""
    found = []
    for path in [base, *base.parent.glob(f"{glob.escape(base.name)}-*")]:
        number = "1" if path == base else path.name.removeprefix(f"{base.name}-")
        if number.isdecimal() and RunFolder(path).exists:
            found.append((int(number), RunFolder(path)))
    return [folder for _, folder in sorted(found, key=lambda entry: entry[0])]


def free_folder(base: Path) -> RunFolder:
    """Return ``base``, or the ``base-2``, ``base-3``, ... after every run of the series, so none is overwritten."""
    taken = series(base)
    if not taken:
        return RunFolder(base)
    last = taken[-1].path
    number = 1 if last == base else int(last.name.removeprefix(f"{base.name}-"))
    return RunFolder(base.with_name(f"{base.name}-{number + 1}"))


def _plain(key: str) -> str:
    if not isinstance(key, str) or key in ("", ".", "..") or Path(key).name != key or "\0" in key:
        raise RunError(f"The key {key!r} in the run's journal is not the name of a folder; the journal is damaged.")
    return key
