"""Full disks and other refusals of the operating system, recognised and put into a sentence."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas_distill.common.errors import RunError

FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE = 1 << 20  # bytes; a file system with less than this free is full for all that a search writes


def disk_sentence(error: OSError, where: Path | None = None) -> str:
    """Say what could not be read or written, and why; ``where`` it was, if the error does not know."""
    file = error.filename or where or "a file"
    if error.errno in FULL:
        return f"the disk is full, so {file} could not be written; what was finished is kept: make space, then go on."
    return f"{file} cannot be used ({error.strerror or error}); what was finished is kept."


def full_sentence(place: Path) -> str:
    """Say that a file system is full, and that workers cannot do without it."""
    return f"the disk of {place} is full, so nothing can be trained; what was finished is kept: make space, then go on."


def names_full_disk(text: str) -> bool:
    """Say whether a message, of a library that keeps no error number, is of a full disk or an exhausted quota."""
    return any(os.strerror(number) in text for number in FULL)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what the operating system refuses within the block, which writes to ``where``, into a RunError."""
    try:
        yield
    except BrokenPipeError:  # a reader has gone, which is no matter of files
        raise
    except OSError as error:
        raise RunError(disk_sentence(error, where)) from error


def full_disk_error(error: BaseException | None) -> OSError | None:
    """Return the OSError of a full disk or an exhausted quota from which ``error`` follows; None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def first_full(folders: Iterable[Path]) -> Path | None:
    """Return the first of the folders on whose file system there is no room left to write; None if all have room.

    Room is asked for and given back at once. Folders that are missing or closed to this user are passed over.
    """
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:
                os.posix_fallocate(probe.fileno(), 0, _PROBE)
        except OSError as error:
            if error.errno in FULL:
                return folder
    return None


def places_written(run: Path) -> list[Path]:
    """Return the folders that a search of worker processes writes to: the run's, temporary ones, shared memory."""
    temporary = [value for name in ("RAY_TMPDIR", "TMPDIR") if (value := os.environ.get(name))]
    with suppress(FileNotFoundError):  # it tries to write, and finds no folder where all are full
        temporary.append(tempfile.gettempdir())
    return [run, *map(Path, dict.fromkeys([*temporary, "/tmp", "/dev/shm"]))]
