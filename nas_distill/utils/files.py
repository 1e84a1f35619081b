"""Atomic files, training checkpoints, and refusals of the operating system such as a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nas_distill.utils.errors import RunError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; when the block ends without error it becomes ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Made here and not before: what lies there may be a link out of a stranger's folder.
    temporary.unlink(missing_ok=True)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make files that their owner alone can read
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain_file(folder: Path, name: str, *, largest: int | None = None, links: bool = False) -> Path:
    """Return the path of a file that may come from a stranger, after a look at what it is.

    Args:
        folder: where it must be.
        name: of the file, without slashes.
        largest: size in bytes that it may have.
        links: whether a link may lead out of the folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no regular file (a pipe or a device would be read without end), leads out of the folder, or
            is too large.
    """
    path = folder / name
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
        raise ValueError(f"'{name}' is not the name of a file")
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise ValueError("not a regular file")
    if not links and not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"a link that leads out of {folder}")
    if largest is not None and info.st_size > largest:
        raise ValueError(f"{info.st_size} bytes, of which {largest} are allowed")
    return path


def links_outside(folder: Path) -> Path | None:
    """Return a link in a folder, at any depth, that leads out of it; None where there is none."""
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                return path
    return None


def remember_own(folder: Path, *contents: bytes) -> None:
    """Note outside of the folder that this user has made it, with these contents; nothing where that cannot be kept."""
    try:
        write_text(_own(folder, contents), f"{folder.resolve()}\n")
    except (OSError, RuntimeError):  # no home, or one that is not writable: the user is asked instead
        return


def is_own(folder: Path, *contents: bytes) -> bool:
    """Say whether ``remember_own`` has noted the folder with these contents at this place."""
    try:
        return _own(folder, contents).is_file()
    except (OSError, RuntimeError):
        return False


def _own(folder: Path, contents: tuple[bytes, ...]) -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    home = Path(state) if state else Path.home() / ".local" / "state"
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return home / "nas_distill" / "own" / digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE = 1 << 20  # bytes; a file system with less than this free is full for all that a search writes


def disk_error_message(error: OSError, where: Path | None = None) -> str:
    """Say what could not be read or written, and why; ``where`` it was, if the error does not know."""
    file = error.filename or where or "a file"
    if error.errno in FULL:
        return f"the disk is full, so {file} could not be written; what was finished is kept: make space, then go on."
    return f"{file} cannot be used ({error.strerror or error}); what was finished is kept."


def disk_full_message(place: Path) -> str:
    """Say that a file system is full, and that workers cannot do without it."""
    return f"the disk of {place} is full, so nothing can be trained; what was finished is kept: make space, then go on."


def mentions_full_disk(text: str) -> bool:
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
        raise RunError(disk_error_message(error, where)) from error


def full_disk_error(error: BaseException | None) -> OSError | None:
    """Return the OSError of a full disk or an exhausted quota from which ``error`` follows; None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def first_full_folder(folders: Iterable[Path]) -> Path | None:
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


def written_folders(run: Path) -> list[Path]:
    """Return the folders that a search of worker processes writes to: the run's, temporary ones, shared memory."""
    temporary = [value for name in ("RAY_TMPDIR", "TMPDIR") if (value := os.environ.get(name))]
    with suppress(FileNotFoundError):  # it tries to write, and finds no folder where all are full
        temporary.append(tempfile.gettempdir())
    return [run, *map(Path, dict.fromkeys([*temporary, "/tmp", "/dev/shm"]))]
