"""Live view of a search in a terminal, a notebook, or as plain lines."""

from __future__ import annotations

import html
import io
import sys
import time
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas_distill.reports import formatting as words
from nas_distill.reports.model import ProgressView

Mode = Literal["auto", "live", "notebook", "plain", "quiet"]
NOTEBOOK_WIDTH = 100
REDRAWN_SECONDS = 0.25


def make_console() -> Console:
    """Return a console on standard output; in a notebook it writes text, as rich's HTML makes an output per line."""
    console = Console()
    if not console.is_jupyter:
        return console
    return Console(force_jupyter=False, force_terminal=False, width=NOTEBOOK_WIDTH)


class ProgressDisplay:
    """Display of a run's progress. Not thread-safe: called from the thread that searches; rich draws in its own.

    Args:
        console: where to write; standard output by default.
        mode: ``live`` redraws a few lines in place, ``plain`` writes and flushes a line per event, ``notebook`` redraws
            an output of the cell, ``quiet`` writes nothing; ``auto`` is live on a terminal, notebook in a notebook, and
            plain elsewhere.
    """

    def __init__(self, console: Console | None = None, *, mode: Mode = "auto") -> None:
        self.console = console or make_console()
        self.mode: Mode = self._fitting() if mode == "auto" else mode
        self._cell: Any = None
        self._drawn = 0.0
        self._view: ProgressView | None = None
        self._updated = 0.0
        self._last = ""
        self._live: Live | None = None

    def _fitting(self) -> Mode:
        if self.console.is_terminal:
            return "live"
        own = self.console.file is sys.stdout
        return "notebook" if own and Console().is_jupyter else "plain"

    def start(self) -> None:
        """Start the display; further calls have no effect."""
        if self.mode == "live" and self._live is None:
            self._live = Live(get_renderable=self._draw, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def update(self, view: ProgressView) -> None:
        """Show the current state. In plain mode this writes a line only when a new phase begins."""
        begins = self._view is None or self._view.phase != view.phase
        if begins:
            self._end_phase()
            self._last = ""
        self._view, self._updated = view, time.monotonic()
        self._redraw(now=begins)
        if begins and self.mode == "plain":
            total = f": {view.total:g} {view.unit}" if view.total else ""
            self._write(f"{view.phase}{total}")

    def event(self, text: str) -> None:
        """Show an event, e.g. ``"trial 12 complete: 91.2 %, 1.3 M flops"``.

        The live view shows the latest event. In plain mode each is a line that begins with the phase's progress, so
        call ``update`` first.
        """
        self._last = " ".join(text.split())
        self._redraw()
        if self.mode == "plain":
            view = self._view
            done = f"[{view.done:g}/{view.total:g}] " if view is not None and view.total else ""
            self._write(done + self._last)

    def note(self, text: str) -> None:
        """Write a permanent line, in every mode but quiet."""
        if self.mode != "quiet":
            self._write(" ".join(text.split()))

    def stop(self) -> None:
        """Stop the display and leave the summary of the last phase on the screen; further calls have no effect."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._cell is not None:
            self._cell.update(_as_html(""))
            self._cell = None
        self._end_phase()
        self._view = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end_phase(self) -> None:
        if self._view is not None and self.mode in ("live", "notebook"):
            self._write(f"{self._view.phase}: {self._summary(self._view)}")

    def _redraw(self, *, now: bool = False) -> None:
        """Draw the view in a notebook's cell, at most once per ``REDRAWN_SECONDS`` unless ``now``."""
        if self.mode != "notebook" or not (now or time.monotonic() - self._drawn >= REDRAWN_SECONDS):
            return
        from IPython.display import display

        page = Console(file=io.StringIO(), width=NOTEBOOK_WIDTH, force_jupyter=False, force_terminal=False)
        page.print(self._draw())
        shown = _as_html(page.file.getvalue().rstrip())  # type: ignore[attr-defined]
        self._drawn = time.monotonic()
        if self._cell is None:
            self._cell = display(shown, display_id=True)
        else:
            self._cell.update(shown)

    def _summary(self, view: ProgressView) -> str:
        if view.complete + view.pruned + view.failed + view.over_budget == 0:
            done = f"{view.done:g} {view.unit} in " if view.total else ""
            return done + words.duration(self._elapsed(view))
        return f"{counts(view)}; {words.duration(self._elapsed(view))}"

    def _write(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)
        self.console.file.flush()

    def _elapsed(self, view: ProgressView) -> float:
        return view.elapsed_seconds + max(0.0, time.monotonic() - self._updated)

    def _draw(self) -> RenderableType:
        view = self._view
        if view is None:
            return Text("")
        since = self._elapsed(view) - view.elapsed_seconds
        left = None if view.left_seconds is None else max(0.0, view.left_seconds - since)
        return live_view(view, elapsed=self._elapsed(view), left=left, last=self._last)


def _as_html(text: str) -> Any:
    from IPython.display import HTML

    return HTML(f"<pre>{html.escape(text)}</pre>" if text else "")


def live_view(view: ProgressView, *, elapsed: float, left: float | None, last: str = "") -> RenderableType:
    """Return the lines of the live view; ``elapsed`` and ``left`` are the current times in seconds."""
    head = Table.grid(padding=(0, 1), expand=False)
    clock = words.duration(elapsed) + (f", about {words.duration(left)} left" if left is not None else "")
    total = f"{view.done:g}/{view.total:g} {view.unit}" if view.total else ""
    head.add_row(
        Text(view.phase, style="bold"),
        ProgressBar(total=view.total or None, completed=view.done, width=28, pulse=not view.total),
        Text(total),
        Text(clock, style="dim"),
    )
    lines: list[RenderableType] = [head]
    if view.running or view.complete or view.pruned or view.failed or view.over_budget:
        running = [f"{view.running} running"] if view.running else []
        lines.append(Text(", ".join([*running, counts(view)]), overflow="ellipsis", no_wrap=True))
    if best := best_line(view):
        lines.append(Text(best, overflow="ellipsis", no_wrap=True))
    if view.stopping:
        lines.append(Text("stopping: what is finished is kept", style="bold yellow"))
    elif last:
        lines.append(Text(last, style="dim", overflow="ellipsis", no_wrap=True))
    return Group(*lines)


def counts(view: ProgressView) -> str:
    """Return the numbers of trials by outcome: ``"12 complete, 9 stopped early, 31 over budget"``."""
    parts = [
        f"{view.complete} complete",
        f"{view.pruned} stopped early",
        f"{view.over_budget - view.below} over budget",
    ]
    parts += [f"{view.below} below the lower limit"] if view.below else []
    parts += [f"{view.failed} failed"] if view.failed else []
    parts += [words.count(view.duplicates, "repeat")] if view.duplicates else []
    return ", ".join(parts)


def best_line(view: ProgressView) -> str:
    """Return the best trial within budget and the front's size; empty before a trial is complete."""
    if view.best_quality is None:
        return ""
    costs = f" at {words.costs(view.best_costs)}" if view.best_costs else ""
    volume = f", hypervolume {view.hypervolume:.4f}" if view.hypervolume is not None else ""
    trial = f" (trial {view.best_trial})" if view.best_trial is not None else ""
    return f"best within budget {words.percent(view.best_quality)}{costs}{trial}; front of {view.front_size}{volume}"
