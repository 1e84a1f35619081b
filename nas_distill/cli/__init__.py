"""The command line: runs a command, and reports errors in one line with an exit code."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from typing import Any, NoReturn

import typer

from nas_distill.cli.commands import app
from nas_distill.cli.output import printable
from nas_distill.study.interruption import InterruptedSearchError, interruptible
from nas_distill.utils.errors import NasDistillError, first_line
from nas_distill.utils.files import disk_error_message

__all__ = ["app", "main"]

STOPPED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit code 2 for errors that a user can fix, 130 when stopped by a signal, 1 for a bug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack characters of tables
    try:
        with interruptible():
            code = app(args=arguments, prog_name="nas-distill", standalone_mode=False)
        sys.stdout.flush()
    except InterruptedSearchError as error:
        _fail(str(error), STOPPED)
    except NasDistillError as error:
        _fail(f"nas-distill: {error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("Stopped.", STOPPED)
    except BrokenPipeError:
        # The reader of the output is gone; the rest of the buffer must not be written again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"nas-distill: {disk_error_message(error)}", 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # an error of the command line itself, of any of typer's classes
            _fail(_usage_sentence(error), 2)
        _fail(f"nas-distill: {_kept_traceback(error)}", 1)
    if code == STOPPED:  # typer's result of a KeyboardInterrupt
        _fail("Stopped.", STOPPED)


def _fail(message: str, code: int) -> NoReturn:
    if message:
        typer.echo(printable(message), err=True)
    sys.exit(code)


def _usage_sentence(error: Any) -> str:
    """Return the error of a command line as a sentence; empty where its help was shown already."""
    message = " ".join(error.format_message().split())
    if not message:
        return ""
    context = getattr(error, "ctx", None)
    command = "nas-distill" if context is None else context.command_path
    return f"nas-distill: {message.rstrip('.')}; '{command} --help' lists arguments and options."


def _kept_traceback(error: Exception) -> str:
    where = "could not be written"
    try:
        handle, path = tempfile.mkstemp(prefix="nas-distill-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            traceback.print_exception(error, file=stream)
        where = f"is in {path}, please report it"
    except OSError:
        pass
    return f"this is a bug in nas-distill ({first_line(error)}); its traceback {where}."
