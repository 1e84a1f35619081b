from __future__ import annotations

import subprocess
import sys

import pytest

from nas_distill.blockwise import ilp
from nas_distill.blockwise.ilp import IntegerProgram, Row
from nas_distill.utils.errors import BudgetError


def test_common_rows_hold_for_all_solves_and_others_for_one():
    one_of_three = IntegerProgram(3, [Row({0: 1.0, 1: 1.0, 2: 1.0}, 1.0, 1.0)])
    goal = {0: 3.0, 1: 1.0, 2: 2.0}
    assert one_of_three.minimise(goal, []) == [1]
    assert one_of_three.minimise(goal, [Row({1: 1.0}, high=0.0)]) == [2]
    assert one_of_three.minimise(goal, [Row({0: 2.0, 1: 0.5}, low=1.5)]) == [0]
    assert one_of_three.minimise(goal, [Row({0: 1.0, 1: 1.0, 2: 1.0}, low=2.0)]) is None
    assert len(one_of_three.minimise({}, [])) == 1


def test_a_failed_solver_reports_the_reason(monkeypatch):
    class Solved:
        status, message = 1, "Time limit reached. (HiGHS)\n"

    monkeypatch.setattr(ilp, "milp", lambda *_, **__: Solved)
    with pytest.raises(BudgetError, match=r"could not be solved \(Time limit reached"):
        IntegerProgram(1, []).minimise({0: 1.0}, [])


def test_output_of_native_code_is_suppressed():
    code = """
import ctypes, os
from nas_distill.blockwise.ilp import no_output
print("before")
with no_output():
    os.write(1, b"written below Python\\n")
    ctypes.CDLL(None).puts(b"printed by C and still in its buffer")
print("after")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
