import json
import os

import pytest

from nas_distill.utils.files import atomic_path, write_json, write_text


def test_a_file_is_written_with_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_and_fail():
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path):
    """The author of an untrusted folder can predict that name."""
    outside, path = tmp_path / "outside", tmp_path / "folder" / "file.txt"
    outside.write_text("precious")
    path.parent.mkdir()
    (path.parent / f".file.txt.{os.getpid()}.part").symlink_to(outside)
    write_text(path, "new")
    assert (outside.read_text(), path.read_text()) == ("precious", "new")
    assert list(path.parent.iterdir()) == [path]


def test_json_keeps_key_order_and_unicode(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"z": 1, "a": "é"})
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["z", "a"]
    assert "é" in path.read_text(encoding="utf-8")
