"""Output of the console observer, without a search."""

import io

import pytest
from rich.console import Console

from nas_distill.engine.finalists import FinalProgress
from nas_distill.engine.progress import Event, Progress
from nas_distill.runs.metadata import Finalist
from nas_distill.study.observer import ConsoleObserver


@pytest.fixture
def told():
    """An observer on a plain console, and its output."""
    text = io.StringIO()
    observer = ConsoleObserver(console=Console(file=text, width=120, force_terminal=False))
    return observer, text.getvalue


def progress(done=1, requested=4, running=0, stopping=False):
    return Progress(
        requested=requested,
        running=running,
        waiting=0,
        complete=done,
        pruned=0,
        failed=0,
        over_budget=2,
        duplicates=0,
        best=None,
        front_size=1,
        hypervolume=0.5,
        reference={"flops": 1.0},
        seconds_trained=1.0,
        seconds_saved=0.0,
        elapsed_seconds=1.0,
        seconds_left=None,
        stopping=stopping,
        end_reason=None,
    )


def finalist(**changes):
    content = {"key": "t00003", "trial": 3, "architecture": {}, "costs": {"flops": 1.0}, "taught": True, "score": 0.5}
    return Finalist(**{**content, **changes})


def test_a_finished_trial_is_one_line_with_its_quality(told):
    observer, written = told
    with observer:
        observer.phase("search")
        observer.event(Event("started", 7, "t00007"), lambda: progress(0))
        observer.event(Event("rung", 7, "t00007", "quality 0.5000 at rung 2"), lambda: progress(0))
        observer.event(Event("complete", 7, "t00007"), lambda: progress(1))
        observer.event(Event("over_budget", 8, "t00008"), lambda: progress(1))
        observer.event(Event("failed", 9, "t00009", "no sixteen today"), lambda: progress(2))
        observer.event(Event("pruned", 10, "t00010", "trial 7 costs no more"), lambda: progress(3))
    assert written().splitlines() == [
        "search",
        "[1/4] trial 7 complete: quality 0.5000 at rung 2",
        "[2/4] trial 9 failed: no sixteen today",
        "[3/4] trial 10 stopped: trial 7 costs no more",
    ]


def test_an_early_end_of_the_search_is_reported_with_its_reason(told):
    observer, written = told
    with observer:
        observer.phase("search")
        observer.event(Event("ended", text="all 4 trials are done or under way"), lambda: progress(3, running=1))
        observer.event(Event("ended", text="the search was asked to stop"), lambda: progress(1, stopping=True))
        observer.event(Event("ended", text="all 3 architectures of the space have been tried"), lambda: progress(3))
    assert written().splitlines() == [
        "search",
        "No more candidates: all 3 architectures of the space have been tried.",
    ]


def test_finalists_are_reported_per_epoch_with_the_time_left(told):
    observer, written = told
    with observer:
        observer.phase("full distillation")
        observer.finalist(finalist(qualities=[0.4]), FinalProgress(1, 10, 2, 540.0))
        observer.finalist(finalist(qualities=[0.4, 0.75]), FinalProgress(2, 10, 2, 480.0))
        observer.finalist(finalist(qualities=[0.4, 0.75], quality=0.75), FinalProgress(2, 10, 2, 480.0))
        observer.finalist(
            finalist(key="t00003-labels", taught=False, quality=0.7, qualities=[0.7]), FinalProgress(4, 10, 2, None)
        )
        observer.finalist(finalist(key="t00004", trial=4, cause="worker died (Aborted)"), FinalProgress(4, 8, 2, 1.0))
        observer.finalist(finalist(key="t00005", trial=5, score=float("nan"), quality=0.8), FinalProgress(8, 8, 2, 0.0))
    assert written().splitlines() == [
        "full distillation",
        "[1/10] trial 3 taught: 40.00 % after epoch 1 of 2; about 9 min 00 s left",
        "[2/10] trial 3 taught: 75.00 % on validation data (short: 50.00 %)",
        "[4/10] trial 3 on labels only: 70.00 % on validation data (short: 50.00 %)",
        "[4/8] trial 4 taught failed: worker died (Aborted)",
        "[8/8] trial 5 taught: 80.00 % on validation data",
    ]


def test_steps_with_a_text_are_lines(told):
    observer, written = told
    with observer:
        observer.phase("distilling trial 3")
        observer.step(1, 2, "validation 50.00%")
        observer.step(2, 2)
        observer.note("Something to know.")
    assert written().splitlines() == ["distilling trial 3", "[1/2] validation 50.00%", "Something to know."]


def test_quiet_prints_nothing():
    text = io.StringIO()
    with ConsoleObserver(quiet=True, console=Console(file=text)) as observer:
        observer.phase("search")
        observer.event(Event("complete", 7, "t00007", "text"), lambda: progress(1))
        observer.event(Event("ended", text="nothing new came up"), lambda: progress(1))
        observer.finalist(finalist(quality=0.7), FinalProgress(1, 1, 1, 0.0))
        observer.step(1, 2, "validation")
        observer.note("Something to know.")
    assert text.getvalue() == ""


def test_the_terminal_is_restored_after_an_error():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80)

    def search():
        with ConsoleObserver(console=console) as observer:
            observer.phase("search")
            observer.event(Event("started", 7, "t00007"), lambda: progress(0, running=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search()
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert text.getvalue().count(hidden) == text.getvalue().count(shown) == 1


def test_a_quiet_console_never_takes_a_snapshot():
    text = io.StringIO()
    with ConsoleObserver(quiet=True, console=Console(file=text)) as observer:
        observer.phase("search")
        for kind in ("started", "rung", "complete", "ended"):
            observer.event(Event(kind, 7, "t00007", "why"), lambda: pytest.fail("nobody looks"))
    assert text.getvalue() == ""
