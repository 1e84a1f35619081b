"""The table of finished trainings, a CSV file with one line per reading, written after every training."""

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
    """The state of a training of ``network`` after ``epochs`` of its ``of`` epochs.

    ``kind`` and ``seed`` (an index) identify the training. ``quality`` and ``last``: validation quality (higher is
    better) of the averaged and of the last weights; ``loss``: the sum of the training loss over all steps so far;
    ``seconds``: training time so far. A missing figure is NaN. A failed training has one reading, with its ``cause``.
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
        """The key of its training: network, kind and seed."""
        return self.network, self.kind, self.seed

    @property
    def final(self) -> bool:
        """True for the last reading of its training."""
        return bool(self.cause) or self.epochs == self.of


COLUMNS = tuple(field.name for field in fields(Reading))


class TrainingTable:
    """Readings of finished trainings in a CSV file, to which whole trainings are appended."""

    def __init__(self, path: Path) -> None:
        """Open or create a table; an incomplete training at its end is removed.

        Raises:
            RunError: the file is not such a table.
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
        """All readings, in the order in which they were added."""
        return list(self._readings)

    def append(self, readings: Sequence[Reading]) -> None:
        """Append all readings of a finished training, in order; flushed to disk on return.

        Raises:
            ValueError: the last reading is not the end of the training.
        """
        if not readings or not readings[-1].final:
            raise ValueError("only a finished training can be added")
        cells = [_cells(reading) for reading in readings]
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_lines(cells))
            stream.flush()
            os.fsync(stream.fileno())
        self._readings += map(_reading, cells)  # rounded as in the file, so that reading it back changes nothing
        self._finished.add(readings[-1].training)


def parse_readings(text: str, *, source: str) -> list[Reading]:
    """Return the readings of a table's text, without an incomplete last line.

    Raises:
        RunError: it is not a table of trainings; names the line.
    """
    complete = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(complete)))
    if not rows:
        return []
    if tuple(rows[0]) != COLUMNS:
        raise RunError(f"{source} is not a table of trainings: its first line names other columns. Move the file away.")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            found.append(_reading(row))
        except (ValueError, TypeError) as error:
            raise RunError(f"{source}: line {number} is not a reading of a training. Move the file away.") from error
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
