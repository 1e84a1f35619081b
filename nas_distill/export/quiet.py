"""Exporters that keep to themselves, and what they fail with in one line."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run a block of torch's exporters without their warnings, log lines and prints.

    They warn about their own future, about torchvision being absent, and report progress; what fails still raises.
    """
    names = ("torch", "onnxscript", "onnx_ir", "onnxruntime")
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] in names]
    levels = [(logger, logger.level) for logger in {*loggers, *map(logging.getLogger, names)}]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            for logger, _ in levels:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


def first_cause(error: BaseException) -> str:
    """Return what an error, or the first one that led to it, says on its first line; without a full stop."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        f"{type(error).__name__}: {line}".rstrip(".: ") if len(line) < 200 else f"{type(error).__name__}: {line[:200]}…"
    )
