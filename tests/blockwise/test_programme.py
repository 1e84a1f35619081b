from __future__ import annotations

import subprocess
import sys

import pytest

from nas_distill.blockwise import ilp as programme
from nas_distill.blockwise.ilp import Programme, Row
from nas_distill.utils.errors import BudgetError


def test_rows_of_a_programme_hold_for_every_question_and_those_of_one_for_it_alone():
    one_of_three = Programme(3, [Row({0: 1.0, 1: 1.0, 2: 1.0}, 1.0, 1.0)])
    goal = {0: 3.0, 1: 1.0, 2: 2.0}
    assert one_of_three.minimise(goal, []) == [1]
    assert one_of_three.minimise(goal, [Row({1: 1.0}, high=0.0)]) == [2]
    assert one_of_three.minimise(goal, [Row({0: 2.0, 1: 0.5}, low=1.5)]) == [0]
    assert one_of_three.minimise(goal, [Row({0: 1.0, 1: 1.0, 2: 1.0}, low=2.0)]) is None
    assert len(one_of_three.minimise({}, [])) == 1


def test_a_solver_that_gives_up_says_why(monkeypatch):
    class Solved:
        status, message = 1, "Time limit reached. (HiGHS)\n"

    monkeypatch.setattr(programme, "milp", lambda *_, **__: Solved)
    with pytest.raises(BudgetError, match=r"could not be solved \(Time limit reached"):
        Programme(1, []).minimise({0: 1.0}, [])


def test_what_the_solver_prints_by_itself_is_not_seen():
    code = """
import ctypes, os
from nas_distill.blockwise.ilp import no_output
print("before")
with no_output():
    os.write(1, b"written below Python\\n")
    ctypes.CDLL(None).puts(b"printed by C, and still in its buffer")
print("after")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
