"""Journals of real searches, damaged in every way that a disk or an editor can: found, and said in one sentence."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from nas_distill.config import SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.work import Outcome, RungResult
from nas_distill.runs.chain import Chain, seal
from nas_distill.runs.journal import open_journal, read_study
from nas_distill.runs.records import read_records
from nas_distill.utils.errors import RunError

NEWLINE = ord("\n")


@pytest.fixture
def searched(make_bench: Callable[..., Any]) -> Any:
    """A search that was interrupted and resumed, with every outcome a trial may have."""
    space = {"width": {"int": [8, 24], "step": 8}, "kernel": [3, 5], "act": ["relu", "silu"], "depth": [1]}
    bench = make_bench(search=SearchConfig(trials=5, seeds=3, sampler="tpe"), budget=Budget.parse({"flops": "1500"}))
    bench.space = type(bench.space).from_dict(
        {**space, "blocks": {"repeat": "depth", "of": {"expand": [1, 2], "attention": [False, True]}}},
        builder="builtins:dict",
    )
    with bench.controller() as controller:
        work = controller.next()
        controller.report(work.key, RungResult(0, 10, 0.3, 1.0))
        controller.finish(work.key, Outcome("interrupted"))
    bench.run()
    assert {record.state for record in bench.records()} >= {"interrupted", "complete", "over_budget"}
    return bench


def sentence(bench: Any, lines: list[bytes]) -> str:
    """Return what reading a damaged journal says; opening it for writing says the same, and leaves it as it is."""
    content = b"".join(lines)
    bench.folder.journal.write_bytes(content)
    with pytest.raises(RunError) as read:
        read_records(read_study(bench.folder))
    with bench.folder.lock(), pytest.raises(RunError) as opened:
        open_journal(bench.folder, directions=["maximize", "minimize"], names=["quality", "flops"])
    assert str(opened.value) == str(read.value)
    assert bench.folder.journal.read_bytes() == content
    assert str(read.value).count("\n") == 0
    return str(read.value)


def lines_of(bench: Any) -> list[bytes]:
    return bench.folder.journal.read_bytes().splitlines(keepends=True)


def flipped(lines: list[bytes], line: int, byte: int, bit: int) -> list[bytes]:
    """Return the lines with one bit of one of them inverted."""
    changed = bytearray(lines[line])
    changed[byte] ^= 1 << bit
    return [*lines[:line], bytes(changed), *lines[line + 1 :]]


def check_flip(bench: Any, lines: list[bytes], line: int, byte: int, bit: int) -> None:
    said = sentence(bench, flipped(lines, line, byte, bit))
    named = re.search(r"(?:torn at|damaged:) line (\d+)", said)
    assert named or "torn at line" in said, said
    number = int((named or re.search(r"torn at line (\d+)", said))[1])  # type: ignore[index]
    assert number == line + 1, said


def check_lines(bench: Any, lines: list[bytes], place: int) -> None:
    """Delete, double, and swap the line at ``place``."""
    number, count = place + 1, len(lines)
    if number < count:  # the last one may as well never have been written
        assert f"line {number} is missing" in sentence(bench, lines[:place] + lines[number:])
        swapped = [*lines[:place], lines[number], lines[place], *lines[number + 1 :]]
        assert f"line {number} is out of place: it was written as line {number + 1}" in (sentence(bench, swapped))
    assert f"line {number + 1} repeats line {number}" in sentence(bench, [*lines[:number], *lines[place:]])


def check_truncation(bench: Any, lines: list[bytes], size: int) -> None:
    """Cut the journal at a byte: what was whole is read, as after a death at that moment."""
    content = b"".join(lines)[:size]
    bench.folder.journal.write_bytes(content)
    whole = content[: content.rfind(b"\n") + 1]
    with bench.folder.lock():
        open_journal(bench.folder, directions=["maximize", "minimize"], names=["quality", "flops"])
    assert bench.folder.journal.read_bytes().startswith(whole)
    if whole.count(b"\n") > 2:
        assert bench.folder.journal.read_bytes() == whole


def test_a_sample_of_damage_is_found_and_named(searched: Any) -> None:
    lines, rng = lines_of(searched), np.random.default_rng(0)
    for place in (0, 1, len(lines) // 2, len(lines) - 2, len(lines) - 1):
        check_lines(searched, lines, place)
    for _ in range(40):
        line = int(rng.integers(len(lines)))
        check_flip(searched, lines, line, int(rng.integers(len(lines[line]))), int(rng.integers(8)))
    for line in range(len(lines)):  # its end, with which the next line is glued to it
        check_flip(searched, lines, line, len(lines[line]) - 1, int(rng.integers(8)))
    for size in rng.integers(0, sum(map(len, lines)), 20):
        check_truncation(searched, lines, int(size))


@pytest.mark.slow
def test_damage_to_any_line_is_found_and_named(searched: Any) -> None:
    lines, rng = lines_of(searched), np.random.default_rng(1)
    for place in range(len(lines)):
        check_lines(searched, lines, place)
        for byte in range(place % 23, len(lines[place]), 23):
            check_flip(searched, lines, place, byte, int(rng.integers(8)))
    for size in range(0, sum(map(len, lines)), 97):
        check_truncation(searched, lines, size)


def test_lines_far_from_their_place_and_gaps_are_named(searched: Any) -> None:
    lines = lines_of(searched)
    assert "lines 4 to 6 are missing" in sentence(searched, lines[:3] + lines[6:])
    assert "line 4 is out of place: it was written as line 9" in (
        sentence(searched, [*lines[:3], lines[8], *lines[4:8], lines[3], *lines[9:]])
    )
    assert "line 10 repeats line 2" in sentence(searched, [*lines[:9], lines[1], *lines[9:]])
    foreign = b'{"op_code":2,"worker_id":"x","study_id":0,"user_attr":{"finished":true}}\n'
    assert "line 6 was changed" in sentence(searched, [*lines[:5], foreign, *lines[5:]])


def resealed(logs: list[dict[str, Any]]) -> str:
    """Return a journal of entries as if they had been written in this order."""
    end, lines = Chain(), []
    for log in logs:
        line, end = seal(log, end)
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    return "".join(lines)


def test_trials_that_do_not_follow_from_one_another_are_found_although_all_lines_are_intact(searched: Any) -> None:
    lines = [
        {name: value for name, value in json.loads(line).items() if name not in ("line", "digest")}
        for line in lines_of(searched)
    ]
    begun = [place for place, line in enumerate(lines) if line["op_code"] == 4]
    for place, following in pairwise(begun):
        lost, swapped, doubled = list(lines), list(lines), list(lines)
        del lost[place]
        swapped[place], swapped[following] = swapped[following], swapped[place]
        doubled.insert(place, doubled[place])
        for damaged in (lost, swapped, doubled):
            searched.folder.journal.write_text(resealed(damaged))
            with pytest.raises(RunError, match=r"does not follow|not one of nas_distill's"):
                read_records(read_study(searched.folder))
