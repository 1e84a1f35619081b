from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import replace

import pytest
import torch

from nas_distill.allocation import assembler
from nas_distill.allocation.assembler import JudgePool
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.statistics import batch_norms
from tests.allocation.conftest import make_case


@pytest.fixture(scope="module")
def judge(residual):
    return residual.judge()


@pytest.fixture
def cuts(residual):
    moves = residual.moves(flops=0.5)
    return list(moves.starts())


@pytest.mark.parametrize("name", ["group_norm", "transformer"])
def test_a_teacher_without_batch_norm_does_not_diverge_from_itself(name):
    case = make_case(name)
    judge = case.judge()
    assert judge.divergence(case.space.unpruned, 48) == pytest.approx(0, abs=1e-9)
    cut = case.moves(flops=0.5).uniform()
    assert judge.divergence(cut, 48) > 1e-6
    assert judge.divergence(cut, 16) != judge.divergence(cut, 48)


def test_batch_norms_take_the_statistics_of_the_sample(residual, judge):
    """Wrong running statistics do not matter."""
    module = copy.deepcopy(judge.module)
    for norm in batch_norms([module]):
        norm.running_mean.add_(100)
    shifted = replace(judge, module=module)
    cut = residual.moves(flops=0.5).uniform()
    assert shifted.divergence(cut, 48) == pytest.approx(judge.divergence(cut, 48), rel=1e-4)


def test_judgements_repeat_and_leave_the_teacher_as_it_is(judge, cuts):
    before = [part.clone() for part in judge.module.state_dict().values()]
    first = judge.divergence(cuts[0], 48)
    torch.manual_seed(5)
    assert judge.divergence(cuts[0], 48) == first
    assert all(torch.equal(one, other) for one, other in zip(before, judge.module.state_dict().values()))


def test_a_network_that_overflows_diverges_infinitely(judge, cuts):
    broken = replace(judge, inputs=torch.full_like(judge.inputs, math.inf))
    assert broken.divergence(cuts[0], 48) == math.inf


class Judge:
    """Counts its calls in a file, and fails as the first group's width says."""

    def __init__(self, file):
        self.file = file

    def divergence(self, cut: Cut, samples: int) -> float:
        with self.file.open("a") as stream:
            stream.write("x")
        width = next(iter(cut.widths.values()))
        if width == 2:
            os._exit(3)
        if width == 4:
            raise SystemExit("no")
        if width == 6:
            time.sleep(60)
        return width + samples / 1000


def pool(tmp_path, residual, workers, settings=None):
    return JudgePool(
        Judge(tmp_path / "calls"), residual.space, tmp_path / "judged.json", settings or {"seed": 0}, workers=workers
    )


def test_a_cut_whose_network_crashes_or_hangs_is_the_only_one_lost(residual, tmp_path, monkeypatch):
    monkeypatch.setattr(assembler, "SECONDS", 1.0)
    name = next(iter(residual.space.unpruned.widths))
    cuts = [residual.space.with_width(residual.space.unpruned, name, width) for width in (2, 4, 6, 8, 10)]
    judged = pool(tmp_path, residual, workers=2)
    with judged.running():
        assert judged(cuts, 100) == [math.inf, math.inf, math.inf, 8.1, 10.1]
    again = pool(tmp_path, residual, workers=1)
    calls = (tmp_path / "calls").read_text()
    with again.running():
        assert again(cuts, 100) == [math.inf, math.inf, math.inf, 8.1, 10.1]
    assert (tmp_path / "calls").read_text() == calls
    assert again.judged == 0


@pytest.mark.parametrize("damage", ["{", "[]", '{"settings": 1}', None])
def test_judgements_of_other_settings_or_damaged_ones_are_not_read(residual, tmp_path, damage):
    name = next(iter(residual.space.unpruned.widths))
    cut = residual.space.with_width(residual.space.unpruned, name, 8)
    first = pool(tmp_path, residual, workers=1)
    with first.running():
        first([cut], 10)
    if damage is not None:
        (tmp_path / "judged.json").write_text(damage)
    other = pool(tmp_path, residual, workers=1, settings={"seed": 0 if damage else 1})
    with other.running():
        other([cut], 10)
    assert other.judged == 10
