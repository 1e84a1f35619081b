"""Full disks: real ones where file systems can be mounted, and the errors of libraries on a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_distill.utils.files import first_full_folder, full_disk_error, mentions_full_disk, written_folders


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_file_system_without_free_space_is_full(small_disk, tmp_path):
    assert first_full_folder([tmp_path, small_disk]) is None
    (small_disk / "filler").write_bytes(bytes(3 << 19))
    assert first_full_folder([tmp_path / "missing", tmp_path, small_disk]) == small_disk
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    (small_disk / "filler").unlink()
    assert first_full_folder([small_disk]) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found_among_causes_of_other_errors(number):
    full = OSError(number, os.strerror(number), "/a/file")
    wrapped, handled = ValueError("cannot save"), RuntimeError("nor clean up")
    wrapped.__cause__, handled.__context__ = full, wrapped
    assert full_disk_error(handled) is full
    assert full_disk_error(full) is full
    assert mentions_full_disk(f"RuntimeError: write failed: {os.strerror(number)}")


def test_other_errors_are_not_of_a_full_disk():
    loop = ValueError("one")
    loop.__cause__ = KeyError("two")
    loop.__cause__.__cause__ = loop
    assert full_disk_error(loop) is None
    assert full_disk_error(PermissionError(errno.EACCES, "Permission denied")) is None
    assert full_disk_error(None) is None
    assert not mentions_full_disk("Permission denied")


def test_a_search_writes_to_its_folder_and_to_temporary_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/some/where")
    folders = written_folders(tmp_path)
    assert folders[0] == tmp_path
    assert {Path("/some/where"), Path("/dev/shm"), Path("/tmp")} <= set(folders)
