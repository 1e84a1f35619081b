"""Error classes for users: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 20


class NasDistillError(Exception):
    """Base class of errors that a user can fix; the command line prints only the message and exits with code 2."""


class ConfigError(NasDistillError):
    """The search file, or a value on the command line, is invalid."""


class TrustError(ConfigError):
    """A file that was not declared trusted names code that would run."""


class MissingArgumentError(ConfigError):
    """A run was started with data, teacher or builder from Python, and they are not passed now."""


class DataError(NasDistillError):
    """A data set is invalid."""


class TeacherError(NasDistillError):
    """The teacher cannot be loaded, or does not fit the data."""


class SpaceError(NasDistillError):
    """A search space or an architecture is invalid."""


class BuildError(NasDistillError):
    """A builder raised, or its result cannot be used as a student."""


class CostError(NasDistillError):
    """A cost cannot be computed, measured or predicted."""


class BudgetError(NasDistillError):
    """A budget is invalid, or no architecture of the space fits it."""


class TrainingError(NasDistillError):
    """A training cannot continue: its loss is not finite, or a checkpoint does not belong to it."""


class StorageError(NasDistillError):
    """Files of a training cannot be written (for example, the disk is full); the training itself is valid."""


class RunError(NasDistillError):
    """A run folder is missing, in use, damaged beyond repair, or belongs to another search."""


class ExportError(NasDistillError):
    """A student cannot be exported, or the exported file does not agree with it."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown ``word``, with its full stop.

    It is ``"; did you mean 'x'?"`` if an option is similar, else ``"; known: a, b."`` (the first twenty), or ``"."``.
    """
    known = sorted(str(option) for option in options)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    if not known:
        return "."
    return f"; known: {', '.join(known[:_LISTED])}{', ...' if len(known) > _LISTED else '.'}"


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the error as one line without a full stop, ``TypeName: message``, for records and messages."""
    try:
        message = str(error)
    except BaseException:  # a user's exception class may fail even here
        message = ""
    text = " ".join(message.split()).rstrip(".")
    named = text if isinstance(error, NasDistillError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
    return named if len(named) <= limit else named[: limit - 1] + "…"


def failure_message(error: BaseException) -> str:
    """Return the cause of a failure on one line; marks those that are not an Exception, such as SystemExit."""
    return first_line(error) if isinstance(error, Exception) else f"its code raised {first_line(error)}"
