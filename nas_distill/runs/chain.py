"""Chained digests of journal lines, which reveal lost, repeated and changed lines."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_distill.runs.metadata import check_version
from nas_distill.utils.errors import RunError

_SEALED = re.compile(rb'(\{"line":)(\d+)(,.+),"digest":"([0-9a-f]{16})"\}')
_MARKS = (b'{"line":', b',"digest":"')


@dataclass(frozen=True)
class Chain:
    """The end of a journal: its number of lines, and the digest of all of them."""

    count: int = 0
    digest: str = ""

    def then(self, body: bytes) -> Chain:
        """Return the end after one more line; ``body`` is that line without its digest."""
        return Chain(self.count + 1, hashlib.sha256(self.digest.encode() + body).hexdigest()[:16])


def seal(log: dict[str, Any], end: Chain) -> tuple[dict[str, Any], Chain]:
    """Return a log entry with its line number and digest, to be written after ``end``, and the new end."""
    numbered = {"line": end.count + 1, **log}
    after = end.then(json.dumps(numbered, separators=(",", ":")).encode()[:-1])
    return {**numbered, "digest": after.digest}, after


def check_lines(path: Path, content: bytes) -> tuple[list[dict[str, Any]], Chain]:
    """Return the entries of a journal's ``content`` and its end; bytes after the last line break are ignored.

    Raises:
        RunError: a line cannot be read, or is not the one that was written there (names the line); or the journal is
            of version 1, whose lines have no digests.
    """
    *lines, tail = content.split(b"\n")
    if _SEALED.fullmatch(tail[:-1]):  # an append that was cut short has nothing behind its digest
        raise _damage(path, len(lines) + 1, "was changed after it was written")
    logs, end = [], Chain()
    for number, line in enumerate(lines, start=1):
        try:
            log = json.loads(line)
            log["op_code"]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} is torn at line {number}; {_remedy(number)}") from error
        if number == 1 and not any(mark in line for mark in _MARKS):
            check_version({}, path)  # version 1 wrote no digests
        match = _SEALED.fullmatch(line)
        after = None if match is None else end.then(line[: match.start(4) - len(_MARKS[1])])
        if match is None or after is None or int(match[2]) != number or match[4].decode() != after.digest:
            raise _explained(path, lines, end)
        end = after
        logs.append(log)
    return logs, end


def _explained(path: Path, lines: Sequence[bytes], end: Chain) -> RunError:
    """Return the error for the line after ``end``; all lines before it are intact."""
    number = end.count + 1
    line = lines[number - 1]
    match = _SEALED.fullmatch(line)
    if match is None:
        return _damage(path, number, "was changed after it was written")
    claimed, digest = int(match[2]), match[4].decode()
    if claimed < number and lines[claimed - 1] == line:
        return _damage(path, number, f"repeats line {claimed}")
    if claimed <= number or end.then(match[1] + b"%d" % number + match[3]).digest == digest:
        return _damage(path, number, "was changed after it was written")
    if any((later := _SEALED.fullmatch(other)) and int(later[2]) == number for other in lines[number:]):
        return _damage(path, number, f"is out of place: it was written as line {claimed}")
    missing = f"line {number} is" if claimed == number + 1 else f"lines {number} to {claimed - 1} are"
    return RunError(f"{path} is damaged: {missing} missing; {_remedy(number)}")


def _damage(path: Path, number: int, what: str) -> RunError:
    return RunError(f"{path} is damaged: line {number} {what}; {_remedy(number)}")


def _remedy(number: int) -> str:
    if number == 1:
        return "restore it from a copy."
    return (
        f"restore it from a copy, or keep only its first {number - 1} lines (head -n), which loses what was recorded "
        "after them."
    )
