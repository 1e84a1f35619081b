"""Errors that a user meets: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 20


class NasDistillError(Exception):
    """Anything that a user can put right; the command line prints its message alone and exits with code 2."""


class ConfigError(NasDistillError):
    """The search file, or a value given on the command line, is wrong."""


class TrustError(ConfigError):
    """A file that was not declared trusted names code which would run."""


class MissingArgumentError(ConfigError):
    """A run was given data, teacher or builder from Python, and they are not given now."""


class DataError(NasDistillError):
    """The data set cannot be used as it is."""


class TeacherError(NasDistillError):
    """The teacher cannot be loaded, or does not fit the data."""


class SpaceError(NasDistillError):
    """A search space or an architecture is wrong."""


class BuildError(NasDistillError):
    """A builder raised, or what it returned cannot be used as a student."""


class CostError(NasDistillError):
    """A cost cannot be counted, measured or predicted."""


class BudgetError(NasDistillError):
    """A budget cannot be read, or nothing in the space fits it."""


class TrainingError(NasDistillError):
    """A training cannot go on: a loss that is not finite, a checkpoint that does not belong to it."""


class StorageError(NasDistillError):
    """What a training keeps cannot be written (the disk is full, say); the training itself is sound."""


class RunError(NasDistillError):
    """A run folder is missing, in use, torn beyond repair, or of another search."""


class ExportError(NasDistillError):
    """A student cannot be exported, or the exported file does not agree with it."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return how a sentence about an unknown ``word`` ends, full stop included.

    ``"; did you mean 'x'?"`` when an option is near to it, else ``"; known: a, b."`` (the first twenty), or ``"."``.
    """
    known = sorted(str(option) for option in options)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    if not known:
        return "."
    return f"; known: {', '.join(known[:_LISTED])}{', ...' if len(known) > _LISTED else '.'}"


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the error as one line, ``TypeName: message``, for records and messages; never with a full stop."""
    try:
        said = str(error)
    except BaseException:  # an exception of the user's may fail even at this
        said = ""
    text = " ".join(said.split()).rstrip(".")
    named = text if isinstance(error, NasDistillError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
    return named if len(named) <= limit else named[: limit - 1] + "…"


def failure_message(error: BaseException) -> str:
    """Return the cause of a failure on one line; where the code raised no Exception (SystemExit, say), it says so."""
    return first_line(error) if isinstance(error, Exception) else f"its code raised {first_line(error)}"
