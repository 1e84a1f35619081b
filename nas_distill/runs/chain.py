"""Chained digests of journal lines, by which lost, repeated and changed lines are found."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_distill.utils.errors import RunError

_SEALED = re.compile(rb'(\{"line":)(\d+)(,.+),"digest":"([0-9a-f]{16})"\}')
_MARKS = (b'{"line":', b',"digest":"')


@dataclass(frozen=True)
class Chain:
    """The end of a journal: how many lines it has, and the digest of all of them."""

    count: int = 0
    digest: str = ""

    def then(self, body: bytes) -> Chain:
        """Return the end after one more line, of which ``body`` is all but its digest."""
        return Chain(self.count + 1, hashlib.sha256(self.digest.encode() + body).hexdigest()[:16])


def seal(log: dict[str, Any], end: Chain) -> tuple[dict[str, Any], Chain]:
    """Return a log as it is to be written after ``end``, and the new end."""
    numbered = {"line": end.count + 1, **log}
    after = end.then(json.dumps(numbered, separators=(",", ":")).encode()[:-1])
    return {**numbered, "digest": after.digest}, after


def check_lines(path: Path, content: bytes) -> tuple[list[dict[str, Any]], Chain]:
    """Read the whole lines of a journal's ``content``; bytes after the last line end are passed over.

    Raises:
        RunError: a line cannot be read, or is not the one that was written in its place; names the line.
    """
    *lines, tail = content.split(b"\n")
    if _SEALED.fullmatch(tail[:-1]):  # an append that was cut short has nothing behind its digest
        raise _damage(path, len(lines) + 1, "was changed after it was written")
    logs, end, sealed = [], Chain(), False
    for number, line in enumerate(lines, start=1):
        try:
            log = json.loads(line)
            log["op_code"]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} is torn at line {number}; {_remedy(number)}") from error
        if not sealed and not any(mark in line for mark in _MARKS):
            end = end.then(line)
        else:
            match = _SEALED.fullmatch(line)
            after = None if match is None else end.then(line[: match.start(4) - len(_MARKS[1])])
            if match is None or after is None or int(match[2]) != number or match[4].decode() != after.digest:
                raise _explained(path, lines, end, unsealed_before=not sealed and number > 1)
            end, sealed = after, True
        logs.append(log)
    return logs, end


def _explained(path: Path, lines: Sequence[bytes], end: Chain, *, unsealed_before: bool) -> RunError:
    """Say what is wrong with the line after ``end``, up to which all lines are sound."""
    number = end.count + 1
    line = lines[number - 1]
    match = _SEALED.fullmatch(line)
    if match is None:
        return _damage(path, number, "was changed after it was written")
    claimed, digest = int(match[2]), match[4].decode()
    if claimed < number and lines[claimed - 1] == line:
        return _damage(path, number, f"repeats line {claimed}")
    if unsealed_before:
        return RunError(
            f"{path} is damaged at or before line {number}, where the lines of an earlier version end: one is missing, "
            "repeated or changed; restore the file from a copy."
        )
    if claimed <= number or end.then(match[1] + b"%d" % number + match[3]).digest == digest:
        return _damage(path, number, "was changed after it was written")
    if any((later := _SEALED.fullmatch(other)) and int(later[2]) == number for other in lines[number:]):
        return _damage(path, number, f"stands where it does not belong: it was written as line {claimed}")
    missing = f"line {number} is" if claimed == number + 1 else f"lines {number} to {claimed - 1} are"
    return RunError(f"{path} is damaged: {missing} missing; {_remedy(number)}")


def _damage(path: Path, number: int, what: str) -> RunError:
    return RunError(f"{path} is damaged: line {number} {what}; {_remedy(number)}")


def _remedy(number: int) -> str:
    if number == 1:
        return "restore it from a copy."
    return (
        f"restore it from a copy, or keep its first {number - 1} lines (head -n), which gives up what was recorded "
        "after them."
    )
