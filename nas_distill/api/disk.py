"""What the disk refuses, in a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas_distill.common.errors import RunError


def disk_sentence(error: OSError, where: Path | None = None) -> str:
    """Say what could not be read or written, and why; ``where`` it was, if the error does not know."""
    file = error.filename or where or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full, so {file} could not be written; what was finished is kept: make space, then go on."
    return f"{file} cannot be used ({error.strerror or error}); what was finished is kept."


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what the operating system refuses within the block, which writes to ``where``, into a RunError."""
    try:
        yield
    except BrokenPipeError:  # a reader has gone, which is no matter of files
        raise
    except OSError as error:
        raise RunError(disk_sentence(error, where)) from error
