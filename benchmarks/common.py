"""Shared helpers of the benchmarks: Markdown tables, pages in docs/benchmarks, quartiles over interleaved rounds."""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean

import numpy as np

from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.runs.metadata import host, versions
from nas_distill.utils.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "benchmarks"


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of repeated measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        low, median, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75))
        return cls(float(low), float(median), float(high))

    def text(self, digits: int = 3) -> str:
        """Write as ``median (quartile to quartile)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def fashion(root: str | None, images: int) -> Dataset:
    """Return Fashion-MNIST with a view for every pass that ``images`` training images need.

    ``root``: folder of the whole set's IDX files; the embedded subset without it.
    """
    data = load_dataset("fashion-mnist", root=root)
    return data.with_views(Views(count=math.ceil(images / len(data.train)), pad=2, flip=True))


def interleaved(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every case once a round, each round beginning with another case, so that drift meets all alike.

    A case returns its own figure. The first round warms up and is not kept.
    """
    names = list(cases)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            value = cases[name]()
            if turn:
                found[name].append(value)
    return found


def ratios(found: Mapping[str, Sequence[float]], name: str, base: str) -> Quartiles:
    """Return the quartiles of one case over another, round by round."""
    return Quartiles.of([own / other for own, other in zip(found[name], found[base], strict=True)])


def spread(values: Sequence[float]) -> str:
    """Write as ``mean (lowest to highest)``, in percent."""
    return f"{fmean(values):.2%} ({100 * min(values):.2f} to {100 * max(values):.2f})"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; figures are shown as they are given."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a smoke test: tiny settings, and no page is written")
    made.add_argument("--output", type=Path, help="where the page goes, instead of docs/benchmarks/<name>.md")
    return made


def publish(name: str, title: str, parts: Sequence[str], options: argparse.Namespace) -> None:
    """Print a page and, unless it was a smoke test, write it to docs/benchmarks."""
    text = "\n\n".join([f"# {title}", circumstances(), *parts]) + "\n"
    print(text)
    if options.output is not None or not options.quick:
        write_text(options.output or PAGES / f"{name}.md", text)


def circumstances() -> str:
    """Return when, where and how: date, command line, processor, versions, and how busy the machine was."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    packages = ", ".join(f"{package} {version}" for package, version in versions().items())
    return (
        f"`{command_line()}`, {date.today().isoformat()}: {host().processor}, {os.cpu_count()} cores, "
        f"{platform.system()}, load {load} at the end; {packages}."
    )


def command_line() -> str:
    """Return the command, with paths outside the project as placeholders: they mean nothing elsewhere."""
    shown = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    for place, argument in enumerate(sys.argv[1:], start=1):
        outside = argument.startswith(("/", "..", "~"))
        option = sys.argv[place - 1].lstrip("-") if place > 1 else "path"
        shown.append(option.upper() if outside else argument)
    return " ".join(shown)
