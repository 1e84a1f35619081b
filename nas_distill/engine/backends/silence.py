"""Silence of libraries on the user's terminal: logs go to files, streams and signals are restored."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def log_to_file(logger_name: str, path: Path) -> Iterator[None]:
    """Send a logger and those below it to ``path`` (appended) and nowhere else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _PatientHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    below = [name for name in logging.root.manager.loggerDict if name.startswith(f"{logger_name}.")]
    loggers = [logging.getLogger(name) for name in (logger_name, *below)]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [handler] if logger.name == logger_name else []
        logger.propagate = logger.name != logger_name
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)
        with suppress(OSError):
            handler.close()


class _PatientHandler(logging.FileHandler):
    """Loses what cannot be written (the disk is full, say), where others print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""


@contextmanager
def printing_logged(module: Any, name: str, logger: logging.Logger) -> Iterator[None]:
    """Log what the module's function ``name(data, ...)`` would print: ``data["lines"]``; nothing where it has none."""
    function = getattr(module, name, None)
    if function is None:
        yield
        return

    def log(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        logger.info("%s", " ".join(str(line) for line in data.get("lines", ())))

    setattr(module, name, log)
    try:
        yield
    finally:
        setattr(module, name, function)


@contextmanager
def warnings_ignored_from(package: str) -> Iterator[None]:
    """Ignore the warnings that a package's own modules give; everybody else's are treated as before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        yield


@contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Undo what the block does to the handlers of the signals by which a user ends a program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGUSR1")
    before = [(number, signal.getsignal(number)) for name in names if (number := getattr(signal, name, None))]
    try:
        yield
    finally:
        for number, handler in before:
            if handler is not None:  # None: set from outside Python, which cannot be put back
                signal.signal(number, handler)


@contextmanager
def standard_error_to(path: Path) -> Iterator[None]:
    """Send what native code writes to standard error, past Python, to a file (appended); nowhere if that cannot be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        before = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        try:
            target = os.open(path, flags)
        except OSError:
            target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, 2)
        os.close(target)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
