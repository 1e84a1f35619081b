import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas_distill.runs.folder import RunFolder, free_folder, series
from nas_distill.runs.journal import choose_folder, open_journal
from nas_distill.utils.errors import RunError

HOLD = """
import sys, time
from nas_distill.runs.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def begin(path: Path, *, finished: bool = False) -> RunFolder:
    folder = RunFolder(path)
    with folder.lock():
        journal = open_journal(folder, directions=["maximize"], names=["quality"])
        if finished:
            journal.note(finished=True)
    return folder


def test_everything_of_a_run_is_inside_its_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "quick start")
    places = [
        folder.search_yaml,
        folder.journal,
        folder.trials_csv,
        folder.front_png,
        folder.card_md,
        folder.lock_file,
        folder.student("t00003"),
        folder.checkpoint("t00003"),
    ]
    assert len(set(places)) == len(places)
    assert all(place.is_relative_to(folder.path) for place in places)


def test_a_second_process_is_refused_by_the_lock_which_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(RunError, match=rf"{path} is in use by process {holder.pid} on \S+;"),
                RunFolder(path).lock(),
            ):
                pytest.fail("two processes hold one run")
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
    with RunFolder(path).lock() as folder:  # the system let go of a dead holder's lock
        assert json.loads(folder.lock_file.read_text())["pid"] == os.getpid()


def test_the_lock_is_held_only_inside_the_block(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        assert folder.locked
        with pytest.raises(RunError, match=f"process {os.getpid()}"), RunFolder(tmp_path).lock():
            pytest.fail("one process holds a run twice")
    assert not folder.locked
    with folder.lock():
        assert folder.locked


def test_a_path_with_spaces_and_a_long_name_serves(tmp_path: Path) -> None:
    folder = begin(tmp_path / "a folder with spaces" / ("n" * 200))
    assert folder.exists
    assert choose_folder(folder.path, resume=True).path == folder.path


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "run").create()


@pytest.mark.parametrize(("make", "says"), [(False, "does not exist"), (True, "holds no run")])
def test_requiring_a_run_where_there_is_none_says_so(tmp_path: Path, make: bool, says: str) -> None:
    path = tmp_path / "run"
    if make:
        path.mkdir()
    with pytest.raises(RunError, match=says):
        RunFolder(path).require()


def test_a_new_search_never_gets_the_folder_of_another(tmp_path: Path) -> None:
    base = tmp_path / "quick[1]"  # a name that a pattern would misread
    assert choose_folder(base, resume=False).path == base
    begin(base)
    assert choose_folder(base, resume=False).path == tmp_path / "quick[1]-2"
    begin(tmp_path / "quick[1]-2", finished=True)
    begin(tmp_path / "quick[1]-10", finished=True)
    assert free_folder(base).path == tmp_path / "quick[1]-11"
    assert [folder.name for folder in series(base)] == ["quick[1]", "quick[1]-2", "quick[1]-10"]


def test_a_folder_without_a_journal_is_free(tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick-extra").mkdir()
    (tmp_path / "quick-3").mkdir()
    assert free_folder(tmp_path / "quick").path == tmp_path / "quick"


def test_resuming_takes_the_latest_run_if_it_is_unfinished(tmp_path: Path) -> None:
    base = tmp_path / "quick"
    assert choose_folder(base, resume=True).path == base  # with nothing to resume it simply starts
    begin(base)
    assert choose_folder(base, resume=True).path == base
    begin(base, finished=True)
    assert choose_folder(base, resume=True).path == tmp_path / "quick-2"
    begin(tmp_path / "quick-2")
    assert choose_folder(base, resume=True).path == tmp_path / "quick-2"


def test_a_run_that_died_before_its_first_line_is_resumed(tmp_path: Path) -> None:
    base = tmp_path / "quick"
    base.mkdir()
    RunFolder(base).journal.write_bytes(b'{"op_co')
    assert choose_folder(base, resume=True).path == base
