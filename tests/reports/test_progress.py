import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from nas_distill.reports.live import ProgressDisplay, best_line, live_view
from nas_distill.reports.model import ProgressView

SEARCH = ProgressView(
    phase="search",
    done=14,
    total=40,
    running=2,
    complete=6,
    pruned=7,
    failed=1,
    over_budget=21,
    duplicates=1,
    best_quality=0.912,
    best_trial=17,
    best_costs={"flops": 1.3e6},
    front_size=5,
    hypervolume=0.7123,
    elapsed_seconds=61.0,
    left_seconds=118.0,
)


class File(io.StringIO):
    """Text stream that records its content at each flush."""

    def __init__(self):
        super().__init__()
        self.flushed = ""

    def flush(self):
        self.flushed = self.getvalue()


def console(*, terminal=False, width=100):
    return Console(file=File(), force_terminal=terminal, width=width)


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_without_a_terminal_each_event_is_a_flushed_line():
    out = console()
    progress = ProgressDisplay(out)
    assert progress.mode == "plain"
    with progress:
        progress.update(ProgressView("teacher store", done=0, total=12, unit="batches"))
        progress.update(ProgressView("teacher store", done=12, total=12, unit="batches"))
        progress.update(SEARCH)
        progress.event("trial 13 stopped:\n  trial [7] was better")
        assert out.file.flushed == out.file.getvalue()
        progress.note("worker 2 died; its trial continues")
        assert out.file.flushed == out.file.getvalue()
    assert out.file.getvalue().splitlines() == [
        "teacher store: 12 batches",
        "search: 40 trials",
        "[14/40] trial 13 stopped: trial [7] was better",
        "worker 2 died; its trial continues",
    ]


def test_plain_lines_are_not_broken_and_carry_no_codes():
    out = console(width=20)
    ProgressDisplay(out, mode="plain").event("a line that is much longer than twenty columns")
    assert out.file.getvalue() == "a line that is much longer than twenty columns\n"


def test_in_a_notebook_one_output_is_redrawn_and_summaries_of_phases_are_text(monkeypatch, capsys):
    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    pages = []

    class Handle:
        def update(self, page):
            pages.append(page.data)

    def first(page, display_id):
        assert display_id
        pages.append(page.data)
        return Handle()

    monkeypatch.setattr(display, "display", first)
    progress = ProgressDisplay()
    assert progress.mode == "notebook"
    with progress:
        progress.update(ProgressView("teacher store", done=12, total=12, unit="batches", elapsed_seconds=3.0))
        progress.update(SEARCH)
        progress.console.print("a table")
    assert "teacher store" in pages[0]
    assert "14/40" in pages[1]
    assert pages[-1] == ""
    written = capsys.readouterr().out
    assert "teacher store: 12 batches in 3.0 s" in written
    assert "a table" in written
    assert "search: 6 complete" in written


def test_quiet_mode_writes_nothing():
    out = console(terminal=True)
    with ProgressDisplay(out, mode="quiet") as progress:
        progress.update(SEARCH)
        progress.event("something")
        progress.note("something")
    assert out.file.getvalue() == ""


def test_on_a_terminal_it_redraws_in_place_and_leaves_a_summary():
    out = console(terminal=True)
    progress = ProgressDisplay(out)
    assert progress.mode == "live"
    with progress:
        progress.update(ProgressView("teacher store", done=12, total=12, unit="batches", elapsed_seconds=3.0))
        progress.update(SEARCH)
        progress.event("trial 13 stopped")
        progress.note("worker 2 died")
        progress._live.refresh()
    text = plain(out.file.getvalue())
    for part in (
        "14/40 trials",
        "2 running, 6 complete, 7 stopped early, 21 over budget, 1 failed, 1 repeat",
        "best within budget 91.20 % at 1.3 M flops (trial 17); front of 5, hypervolume 0.7123",
        "trial 13 stopped",
        "worker 2 died",
        "teacher store: 12 batches in 3.",
    ):
        assert part in text
    assert text.rstrip().splitlines()[-1].startswith("search: 6 complete, 7 stopped early, 21 over budget")
    assert "\x1b[?25h" in out.file.getvalue()  # the cursor is shown again


def test_stopping_and_starting_twice_is_harmless():
    out = console(terminal=True)
    progress = ProgressDisplay(out, mode="live")
    progress.start()
    progress.start()
    progress.update(SEARCH)
    progress.stop()
    before = out.file.getvalue()
    progress.stop()
    assert out.file.getvalue() == before


def test_the_terminal_is_restored_after_an_error():
    out = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), ProgressDisplay(out):
        raise KeyboardInterrupt
    assert "\x1b[?25h" in out.file.getvalue()


def drawn(view, width=100, **more):
    out = console(width=width)
    out.print(live_view(view, **{"elapsed": 61.0, "left": 118.0, **more}))
    return out.file.getvalue()


def test_the_view_shows_time_spent_and_left():
    assert "1 min 01 s, about 1 min 58 s left" in drawn(SEARCH)
    assert "left" not in drawn(SEARCH, left=None)


def test_a_phase_of_unknown_length_has_no_count():
    text = drawn(ProgressView("calibration"), left=None)
    assert text.split()[0] == "calibration"
    assert "/" not in text
    assert "complete" not in text


def test_stopping_is_shown_instead_of_the_last_event():
    text = drawn(replace(SEARCH, stopping=True), last="trial 13 stopped")
    assert "stopping: what is finished is kept" in text
    assert "trial 13" not in text


def test_a_narrow_terminal_gets_no_more_lines():
    wide, narrow = drawn(SEARCH, 120, last="x" * 200), drawn(SEARCH, 60, last="x" * 200)
    assert max(map(len, narrow.splitlines())) <= 60
    assert len(narrow.splitlines()) <= len(wide.splitlines()) + 2


def test_the_best_line_is_empty_before_a_trial_is_complete():
    assert best_line(ProgressView("search")) == ""
    assert best_line(ProgressView("search", best_quality=0.5)) == "best within budget 50.00 %; front of 0"
