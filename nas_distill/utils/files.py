"""Atomic writing, checks of untrusted files, and errors of the operating system such as a full disk."""

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
    """Yield a temporary path in the same folder; if the block ends without an error, the file is moved to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Unlinked first, since the existing entry may be a link out of an untrusted folder.
    temporary.unlink(missing_ok=True)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers create files that only their owner can read
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain_file(folder: Path, name: str, *, largest: int | None = None, links: bool = False) -> Path:
    """Return the path of a file of an untrusted folder, after checking that it is a regular file in it.

    Args:
        folder: the folder that must contain it.
        name: file name, without slashes.
        largest: maximum size in bytes; None for no limit.
        links: whether a link may lead out of the folder.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a regular file (reading a pipe or a device may never end), leads out of the folder, or
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
        raise ValueError(f"{info.st_size} bytes; at most {largest} are allowed")
    return path


def links_outside(folder: Path) -> Path | None:
    """Return a link in a folder, at any depth, that leads out of it; None if none does."""
    home = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                return path
    return None


def record_ownership(folder: Path, *contents: bytes) -> None:
    """Record, outside of the folder, that this user created it with these contents; does nothing if that fails."""
    try:
        write_text(_own(folder, contents), f"{folder.resolve()}\n")
    except (OSError, RuntimeError):  # without a writable home folder the user is asked for trust instead
        return


def is_own(folder: Path, *contents: bytes) -> bool:
    """Return True if ``record_ownership`` has recorded this folder, at this path, with these contents."""
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
    """Write a JSON file atomically, indented, keys in their given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE = 1 << 20  # bytes; a file system with less free space counts as full, since a search writes more


def disk_error_message(error: OSError, where: Path | None = None) -> str:
    """Return a message about an OSError with its path and cause; ``where`` is the path if the error has none."""
    file = error.filename or where or "a file"
    if error.errno in FULL:
        return f"the disk is full, so {file} could not be written; finished work is kept: free space, then resume."
    return f"{file} cannot be used ({error.strerror or error}); finished work is kept."


def disk_full_message(folder: Path) -> str:
    """Return a message that the file system of a folder, which workers need, is full."""
    return f"the disk of {folder} is full, so nothing can be trained; finished work is kept: free space, then resume."


def mentions_full_disk(text: str) -> bool:
    """Return True if a message, of a library that drops the error number, is of a full disk or an exhausted quota."""
    return any(os.strerror(number) in text for number in FULL)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Convert errors of the operating system within the block, which writes to ``where``, to a RunError."""
    try:
        yield
    except BrokenPipeError:  # a reader closed its end, which is not an error of files
        raise
    except OSError as error:
        raise RunError(disk_error_message(error, where)) from error


def full_disk_error(error: BaseException | None) -> OSError | None:
    """Return the OSError of a full disk or an exhausted quota in the chain of causes of ``error``; None if none is."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def first_full_folder(folders: Iterable[Path]) -> Path | None:
    """Return the first of the folders whose file system is full; None if all have free space.

    The check allocates space and frees it at once. Folders that are missing or not writable are skipped.
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
    """Return the folders that a search with workers writes to: run folder, temporary folders, shared memory."""
    temporary = [value for name in ("RAY_TMPDIR", "TMPDIR") if (value := os.environ.get(name))]
    with suppress(FileNotFoundError):  # it writes a test file, and raises if all candidates are full
        temporary.append(tempfile.gettempdir())
    return [run, *map(Path, dict.fromkeys([*temporary, "/tmp", "/dev/shm"]))]
