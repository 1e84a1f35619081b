"""Table of finished trainings: one line per reading, complete after every training."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from nas_distill.utils.errors import RunError
from nas_distill.utils.files import write_text


@dataclass(frozen=True)
class Reading:
    """What one training of ``network`` had reached after ``epochs`` of its ``of`` epochs.

    ``kind`` and ``seed`` (an index) name the training. ``quality`` and ``last``: validation accuracy (higher is better)
    of the averaged and of the last weights; ``loss``: the sum of the training loss over all steps so far; ``seconds``:
    training time so far. NaN where there is none. A training that failed has one reading, with its ``cause``.
    """

    network: str
    flops: float
    params: float
    kind: str
    seed: int
    epochs: float
    of: float
    step: int
    quality: float
    last: float
    loss: float
    seconds: float
    cause: str = ""

    @property
    def training(self) -> tuple[str, str, int]:
        """Which training it is of."""
        return self.network, self.kind, self.seed

    @property
    def final(self) -> bool:
        """Whether it is the last of its training."""
        return bool(self.cause) or self.epochs == self.of


COLUMNS = tuple(field.name for field in fields(Reading))


class TrainingTable:
    """The readings in one CSV file, by training."""

    def __init__(self, path: Path) -> None:
        """Open a table, or begin one; what is torn at its end is cut off.

        Raises:
            RunError: the file is no such table.
        """
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = parse_readings(text, source=str(path)) if text else []
        finished = {reading.training for reading in found if reading.final}
        self._readings = [reading for reading in found if reading.training in finished]
        self._finished = finished
        if not text.endswith("\n") or len(found) != len(self._readings):
            write_text(path, _lines([COLUMNS, *map(_cells, self._readings)]))

    def __contains__(self, training: tuple[str, str, int]) -> bool:
        return training in self._finished

    @property
    def readings(self) -> list[Reading]:
        """Everything in the table, in the order in which it was finished."""
        return list(self._readings)

    def append(self, readings: Sequence[Reading]) -> None:
        """Add a whole training, its last reading at the end; on the disk when this returns."""
        if not readings or not readings[-1].final:
            raise ValueError("a training is added when it is finished")
        cells = [_cells(reading) for reading in readings]
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_lines(cells))
            stream.flush()
            os.fsync(stream.fileno())
        self._readings += map(_reading, cells)  # as the table has them, so that reading it back changes nothing
        self._finished.add(readings[-1].training)


def parse_readings(text: str, *, source: str) -> list[Reading]:
    """Return the readings of a table's text, without a torn last line.

    Raises:
        RunError: it is no table of trainings; names the line.
    """
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(whole)))
    if not rows:
        return []
    if tuple(rows[0]) != COLUMNS:
        raise RunError(f"{source} is no table of trainings (its first line names other columns); move it away.")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            found.append(_reading(row))
        except (ValueError, TypeError) as error:
            raise RunError(f"{source}: line {number} is no reading of a training; move the file away.") from error
    return found


def _reading(row: Sequence[str]) -> Reading:
    if len(row) != len(COLUMNS):
        raise ValueError("too few cells or too many")
    network, flops, params, kind, seed, epochs, of, step, *figures, cause = row
    quality, last, loss, seconds = (float(cell) if cell else math.nan for cell in figures)
    return Reading(
        network, float(flops), float(params), kind, int(seed), float(epochs), float(of), int(step),
        quality, last, loss, seconds, cause,
    )  # fmt: skip


def _cells(reading: Reading) -> list[str]:
    return [_cell(value) for value in astuple(reading)]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.7g}"
    return " ".join(str(value).split())


def _lines(rows: Iterable[Iterable[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
