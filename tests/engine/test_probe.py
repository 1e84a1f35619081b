import numpy as np
import pytest

from nas_distill.config import ScoreConfig
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.noise_probe import NoiseProbe
from nas_distill.engine.work import Outcome, RungResult
from nas_distill.runs.folder import RunFolder
from nas_distill.spaces import Architecture
from nas_distill.utils.errors import RunError

ARCHITECTURE = Architecture({"width": 8})
RUNGS = (0.5, 1.0)


@pytest.fixture
def make_probe(tmp_path):
    def make(seeds=3, seed=0):
        return NoiseProbe(RunFolder(tmp_path), ARCHITECTURE, ScoreConfig(rungs=RUNGS), seeds=seeds, seed=seed)

    return make


def feed(probe, rows, kind="complete", cause=None):
    """Report a row of qualities for each work; a short row ends early."""
    for row in rows:
        work = probe.next()
        for rung, quality in enumerate(row):
            assert probe.report(work.key, RungResult(rung, rung + 1, quality, 1.0))
        probe.finish(work.key, Outcome(kind if len(row) < 2 else "complete", cause if len(row) < 2 else None))


def test_it_hands_out_one_candidate_under_several_seeds(make_probe):
    probe = make_probe(4)
    works = [probe.next() for _ in range(4)]
    assert probe.next() is None
    assert {work.architecture for work in works} == {ARCHITECTURE}
    assert len({work.seed for work in works}) == len({work.key for work in works}) == 4
    assert len({work.checkpoint for work in works}) == 4
    assert all((work.rungs, work.teacher, work.output) == (RUNGS, True, None) for work in works)
    assert [work.seed for work in works] == [make_probe(4)._waiting[index].seed for index in range(4)]
    assert make_probe(4, seed=1).next().seed != works[0].seed


def test_margins_are_sample_deviations_at_each_rung(make_probe):
    probe, rows = make_probe(), [[0.5, 0.8], [0.6, 0.81], [0.4, 0.85]]
    feed(probe, rows)
    expected = np.std(np.array(rows), axis=0, ddof=1)
    assert probe.margins(1.0) == pytest.approx(tuple(expected))
    assert probe.margins(2.5) == pytest.approx(tuple(2.5 * expected))
    assert probe.margins(0.0) == (0.0, 0.0)


def test_one_of_three_may_fail(make_probe):
    probe = make_probe()
    feed(probe, [[0.5, 0.8], [0.6], [0.4, 0.9]], kind="failed", cause="its worker died")
    assert probe.margins(1.0)[1] == pytest.approx(np.std([0.8, 0.9], ddof=1))


def test_qualities_that_are_not_finite_do_not_count(make_probe):
    probe = make_probe(4)
    feed(probe, [[0.5, 0.8], [float("nan"), float("nan")], [0.4, float("inf")], [0.5, 0.6]])
    margins = probe.margins(1.0)
    assert margins == pytest.approx((np.std([0.5, 0.4, 0.5], ddof=1), np.std([0.8, 0.6], ddof=1)))


def test_too_few_that_came_through_is_an_error_with_the_first_cause(make_probe):
    probe = make_probe()
    feed(probe, [[0.5, 0.8], [0.6], [0.4]], kind="failed", cause="no luck.")
    with pytest.raises(RunError, match=r"probe's trainings failed \(no luck\); set search.pruning.margin to a"):
        probe.margins(1.0)
    with pytest.raises(RunError, match="the probe's trainings failed; set"):
        make_probe().margins(1.0)


class Trains:
    """An evaluator that leaves a checkpoint and tells the same quality again and again."""

    def __init__(self, on_rung=lambda: None):
        self.on_rung = on_rung

    def start(self, work):
        self.rung = -1
        self.work = work
        work.checkpoint.mkdir(parents=True, exist_ok=True)
        return self

    def next_rung(self):
        self.rung += 1
        self.on_rung()
        return RungResult(self.rung, self.rung, 0.5, 1.0)

    def close(self):
        pass


def test_checkpoints_go_when_they_are_no_longer_needed(make_probe, tmp_path):
    probe = make_probe()
    InProcessBackend().run(probe, Trains())
    assert probe.margins(1.0) == (0.0, 0.0)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_stop_keeps_the_checkpoint_of_what_was_in_flight(make_probe, tmp_path):
    probe = make_probe()
    InProcessBackend().run(probe, Trains(on_rung=probe.stop))
    assert probe.stopping
    assert probe.next() is None
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["probe-0"]
