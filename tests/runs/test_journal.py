import errno
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from nas_distill.runs.chain import Chain, seal
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import Journal, NotBegunError, cut_torn_line, open_journal, read_metadata, read_study
from nas_distill.utils.errors import RunError

DIRECTIONS, NAMES = ["maximize", "minimize"], ["quality", "flops"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run").lock() as locked:
        yield locked


def opened(folder: RunFolder) -> Journal:
    return open_journal(folder, directions=DIRECTIONS, names=NAMES)


def trial(**attrs: Any) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING,
        params={"width": 8},
        distributions={"width": optuna.distributions.IntDistribution(8, 16, step=8)},
        user_attrs=attrs,
    )


def filled(folder: RunFolder) -> Journal:
    journal = opened(folder)
    for index in range(3):
        number = journal.add(trial(index=index))
        journal.annotate(number, "rung:0", {"quality": 0.5})
    journal.tell(0, TrialState.COMPLETE, [0.5, 100.0])
    return journal


def test_a_journal_comes_back_as_it_was(folder: RunFolder) -> None:
    before = filled(folder).study.get_trials()
    again = opened(folder)
    assert again.study.get_trials() == before
    assert again.study.metric_names == NAMES
    assert again.next_number == 3
    assert again.add(trial(index=3)) == 3


def test_a_trial_is_one_line(folder: RunFolder) -> None:
    journal = opened(folder)
    lines = len(folder.journal.read_bytes().splitlines())
    journal.add(trial(index=0, costs={"flops": 1.0}))
    assert len(folder.journal.read_bytes().splitlines()) == lines + 1


def test_nothing_is_written_without_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="locked"):
        opened(RunFolder(tmp_path))


@pytest.mark.parametrize("torn", [b"{", b'{"op_code":8,"wor', b'{"op_code":6}', b"\x00\x00\x00", b"\xff"])
def test_a_torn_last_line_is_cut_off_and_the_next_append_is_whole(folder: RunFolder, torn: bytes) -> None:
    before = filled(folder).study.get_trials()
    with folder.journal.open("ab") as stream:
        stream.write(torn)
    journal = opened(folder)
    assert journal.study.get_trials() == before
    journal.add(trial(index=3))
    assert len(opened(folder).study.get_trials()) == 4


def test_optuna_reads_a_sealed_journal_by_itself(folder: RunFolder) -> None:
    journal = filled(folder)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder.journal)))
    study = optuna.load_study(study_name="search", storage=storage)
    assert study.get_trials() == journal.study.get_trials()


@settings(deadline=None, max_examples=50)
@given(lines=st.lists(st.binary(max_size=9).map(lambda text: text.replace(b"\n", b""))), torn=st.binary(max_size=9))
def test_mending_keeps_exactly_the_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes
) -> None:
    torn = torn.replace(b"\n", b"")
    path = tmp_path_factory.mktemp("mend") / "journal"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole + torn)
    assert cut_torn_line(path) == len(torn)
    assert path.read_bytes() == whole


def test_mending_finds_a_line_end_far_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"whole\n" + b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b"whole\n"


@pytest.mark.parametrize("write", [True, False])
def test_a_journal_torn_in_the_middle_names_the_line_and_is_left_as_it_is(folder: RunFolder, write: bool) -> None:
    filled(folder)
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:20] + lines[3][40:]
    content = b"".join(lines)
    folder.journal.write_bytes(content)
    with pytest.raises(RunError, match=r"study.journal is torn at line 4; .*first 3 lines"):
        opened(folder) if write else read_study(folder)
    assert folder.journal.read_bytes() == content


def test_a_stale_lock_does_not_delay_the_first_write(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder)
    stale = folder.path / "study.journal.lock"
    stale.symlink_to(folder.journal)
    left = folder.path / "study.journal.lock123.rename"
    left.symlink_to(folder.journal)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits for the stale lock"))
    opened(folder).add(trial(index=3))
    assert not stale.is_symlink()
    assert not left.is_symlink()


def test_reading_changes_nothing_and_takes_a_torn_end(folder: RunFolder) -> None:
    journal = filled(folder)
    with folder.journal.open("ab") as stream:
        stream.write(b'{"op_code":8,"trial_id"')
    content = folder.journal.read_bytes()
    names = sorted(path.name for path in folder.path.iterdir())
    study = read_study(RunFolder(folder.path))
    assert study.get_trials() == journal.study.get_trials()
    assert study.metric_names == NAMES
    assert folder.journal.read_bytes() == content
    assert sorted(path.name for path in folder.path.iterdir()) == names


def test_what_was_opened_for_reading_cannot_be_written(folder: RunFolder) -> None:
    filled(folder)
    content = folder.journal.read_bytes()
    study = read_study(folder)
    with pytest.raises(RunError, match="opened for reading"):
        study.ask()
    with pytest.raises(RunError, match="opened for reading"):
        study.set_user_attr("a", 1)
    assert folder.journal.read_bytes() == content


def test_reading_before_the_first_trial_says_so(folder: RunFolder) -> None:
    folder.journal.write_bytes(b"")
    with pytest.raises(NotBegunError, match="holds no trials yet"):
        read_study(folder)


def test_another_kind_of_search_is_refused(folder: RunFolder) -> None:
    filled(folder)
    with pytest.raises(RunError, match="begun with objectives maximize, minimize"):
        open_journal(folder, directions=["maximize"], names=["reward"])


def test_lines_that_do_not_follow_from_one_another_are_one_sentence(folder: RunFolder) -> None:
    line, _ = seal({"op_code": 77}, Chain())
    folder.journal.write_text(json.dumps(line, separators=(",", ":")) + "\n")
    for attempt in (opened, read_study):
        with pytest.raises(RunError, match="cannot be replayed"):
            attempt(folder)


def test_a_full_disk_is_one_sentence_and_keeps_what_was_recorded(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(folder)
    before = journal.study.get_trials()
    append = JournalFileBackend.append_logs

    def half(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        with folder.journal.open("ab") as stream:
            stream.write(json.dumps(logs[0]).encode()[:30])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JournalFileBackend, "append_logs", half)
    with pytest.raises(RunError, match=r"the disk of .*study.journal is full; what was recorded is kept"):
        journal.add(trial(index=3))
    monkeypatch.setattr(JournalFileBackend, "append_logs", append)
    with pytest.raises(RunError, match="is full"):  # nothing is appended after a gap
        journal.annotate(1, "rung:1", {})
    assert opened(folder).study.get_trials() == before


def test_an_interrupt_in_the_middle_of_a_line_leaves_whole_lines(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(folder)

    def half(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        with folder.journal.open("ab") as stream:
            stream.write(json.dumps(logs[0]).encode()[:30])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", half)
        with pytest.raises(KeyboardInterrupt):
            journal.annotate(1, "rung:1", {})
    journal.annotate(1, "interrupted", "stopped")
    journal.tell(1, TrialState.FAIL)
    assert opened(folder).study.get_trials() == journal.study.get_trials()


FILL = """
import resource, signal, sys
from nas_distill.utils.errors import RunError
from nas_distill.runs.chain import Chain, seal
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import open_journal

with RunFolder(sys.argv[1]).lock() as folder:
    journal = open_journal(folder, directions=["maximize", "minimize"], names=["quality", "flops"])
    size = folder.journal.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, size + 5000))
    for index in range(1000):
        try:
            journal.note(end_reason=f"{index} " + "x" * 100)
        except RunError as error:
            print(index, error)
            break
"""


def test_a_disk_that_really_refuses_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True)
    number, _, sentence = run.stdout.strip().partition(" ")
    assert "cannot be written (File too large); what was recorded is kept." in sentence
    kept = read_metadata(RunFolder(path)).end_reason
    assert kept is not None
    assert int(kept.split()[0]) == int(number) - 1 > 10
    with RunFolder(path).lock() as folder:
        opened(folder).note(seed=1)
    assert (read_metadata(RunFolder(path)).end_reason, read_metadata(RunFolder(path)).seed) == (kept, 1)
