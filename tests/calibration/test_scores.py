"""Scores and rankings from a table of trainings."""

import math

import numpy as np
import pytest

from nas_distill.calibration.report import ranking_figure, ranking_table
from nas_distill.calibration.scores import (
    CEILING,
    FULL,
    Figure,
    Score,
    Study,
    all_scores,
    by_space,
    ceiling,
    common,
    difference,
    gain,
    rank,
    read_out,
)
from nas_distill.calibration.trainings import Reading
from nas_distill.reports.plots import save_figure

FULLS = [[0.5, 0.6, 0.7, 0.8, 0.9, 0.85, 0.95, 0.99], [0.5, 0.7, 0.6, 0.8, 0.9, 0.85, 0.95, 0.99]]


def reading(index, kind, seed, epochs, of, quality, **more):
    figures = {"last": quality - 0.01, "loss": -quality, "seconds": 10.0 * epochs, **more}
    return Reading(
        f"some-{index:02d}", 1000.0 * 2**index, 100.0 * (index + 1), kind, seed, epochs, of, 1, quality, **figures
    )


def readings():
    for seed, row in enumerate(FULLS):
        for index, quality in enumerate(row):
            yield reading(index, FULL, seed, 1.0, 10.0, quality / 2)
            yield reading(index, FULL, seed, 10.0, 10.0, quality)
    for index, quality in enumerate(FULLS[0]):
        yield reading(index, "kd@1", 0, 1.0, 1.0, quality / 3)
        yield reading(index, "ce@1", 0, 1.0, 1.0, -quality)
        yield reading(index, "full-labels", 0, 10.0, 10.0, 1 - quality)


@pytest.fixture
def study():
    return Study(list(readings()))


def test_scores_are_compared_with_every_seed(study):
    found = rank(study, read_out(study, "kd@1"))
    # It ranks the first seed perfectly; for the second, one of 28 pairs is reversed.
    assert found.tau == pytest.approx((1 + 26 / 28) / 2)
    assert found.count == 8
    assert found.regret == 0
    assert found.recall == 1
    assert (found.seconds, found.share) == (10.0, pytest.approx(0.1))


def test_an_early_reading_of_a_full_run_is_compared_only_with_other_seeds(study):
    found = rank(study, read_out(study, FULL, 1.0))
    assert found.tau == pytest.approx(26 / 28)
    assert found.tau == rank(study, ceiling(study)[0]).tau


def test_the_loss_is_negated_and_gain_is_a_difference(study):
    assert read_out(study, "kd@1", figure=Figure.LOSS).values[None] == pytest.approx(study.column("kd@1", 1.0))
    assert gain(study, "1").values[None] == pytest.approx(np.array(FULLS[0]) * (1 / 3 + 1))
    assert gain(study, "1").seconds == 20.0


def test_training_on_labels_is_another_target(study):
    assert rank(study, read_out(study, "kd@1"), study.labels).tau == pytest.approx(-1)


def test_networks_without_a_value_are_left_out(study):
    values = np.array(FULLS[0])
    values[2] = math.nan
    assert rank(study, Score("some", {None: values})).count == 7
    values[:5] = math.nan
    assert rank(study, Score("some", {None: values})) is None


def test_differences_are_paired(study):
    one, other = read_out(study, "kd@1"), read_out(study, "ce@1")
    found = difference(study, one, other)
    assert found.tau == pytest.approx(rank(study, one).tau - rank(study, other).tau)
    assert found.sure
    assert difference(study, one, one).interval == (0.0, 0.0)
    assert difference(study, one, None) is None
    assert difference(study, one, other, study.labels).tau == pytest.approx(-2)


def test_differences_use_only_networks_with_both_scores(study):
    one = read_out(study, "kd@1")
    fewer, values = np.array(FULLS[0]), -np.array(FULLS[1])
    fewer[1] = values[2] = math.nan
    found = difference(study, Score("fewer", {None: fewer}), Score("others", {None: values}))
    # Without the two that the seeds do not agree on, one is right about every pair and the other wrong.
    assert found.tau == pytest.approx(2)
    assert common(study, [one, Score("fewer", {None: fewer})]).sum() == 7


def test_with_one_seed_a_full_run_has_no_ranking():
    study = Study([entry for entry in readings() if entry.seed == 0])
    assert rank(study, read_out(study, FULL, 1.0)) is None
    assert difference(study, read_out(study, FULL, 1.0), read_out(study, "kd@1")) is None
    assert ceiling(study) == []


def test_all_scores_of_the_table_are_listed(study):
    names = [score.name for score in all_scores(study)]
    assert len(set(names)) == len(names)
    wanted = {"FLOPs", "parameters", "log costs (fit)", "full, read at 1", "kd@1", "kd@1, last weights", "kd@1, TSE",
              "ce@1", "kd-ce@1", "kd@1 + log costs (fit)", CEILING}  # fmt: skip
    assert wanted <= set(names)
    assert "full-labels" not in names
    table = ranking_table(rank(study, score) for score in all_scores(study))
    assert all(f"| {name} |" in table for name in wanted)


def test_a_read_out_names_its_figure_and_whether_it_is_early(study):
    found = {score.name: (score.figure, score.early) for score in all_scores(study)}
    assert found["kd@1"] == (Figure.QUALITY, False)
    assert found["kd@1, last weights"] == (Figure.LAST, False)
    assert found["kd@1, TSE"] == (Figure.LOSS, False)
    assert found["full, read at 1"] == (Figure.QUALITY, True)
    assert found["FLOPs"] == found["kd-ce@1"] == found["kd@1 + log costs (fit)"] == (None, False)
    ranked = rank(study, read_out(study, "kd@1", figure=Figure.LAST))
    assert (ranked.figure, ranked.early) == (Figure.LAST, False)


def test_each_space_is_a_separate_study():
    others = [reading(0, FULL, 0, 1.0, 1.0, 0.5)]
    found = by_space([*others, Reading("a-b-00", 1.0, 1.0, FULL, 0, 1.0, 1.0, 1, 0.1, 0.1, 0.1, 1.0)])
    assert list(found) == ["a-b", "some"]


def test_the_figure_is_drawn_without_any_value(study, tmp_path):
    path = save_figure(ranking_figure(study, [read_out(study, "kd@1")], title="t"), tmp_path / "one.png")
    assert path.stat().st_size > 1000
    nothing = Score("none", {None: np.full(8, math.nan)})
    save_figure(ranking_figure(study, [nothing], title="t"), tmp_path / "two.png")
