"""Silence: warnings, log lines and prints of libraries held back for a block."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_TALKATIVE = ("torch", "onnxscript", "onnx_ir", "onnxruntime", "fvcore")


@contextlib.contextmanager
def quiet(*, prints: bool = True) -> Iterator[None]:
    """Hold back warnings and the log lines of torch, ONNX and fvcore; what fails still raises.

    Args:
        prints: hold back what Python code prints, too.
    """
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _TALKATIVE]
    levels = [(logger, logger.level) for logger in map(logging.getLogger, {*known, *_TALKATIVE})]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if prints:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        for logger, level in levels:
            stack.callback(logger.setLevel, level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


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
