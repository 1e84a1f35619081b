"""Advice of a calibration: length, rungs, margin and slope, and its merge with a search file."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from nas_distill.calibration.advice import advise, with_advice
from nas_distill.calibration.scores import Figure, Study, rank, read_out
from nas_distill.calibration.trainings import Reading
from nas_distill.cli.commands import _print_calibration


def test_the_search_file_overrides_advice_at_every_depth():
    own = {"search": {"pruning": {"margin": 0.1}, "trials": 3}}
    advice = {"search": {"pruning": {"margin": 0.2, "z": 2.0}}, "score": {"epochs": 1.0}}
    assert with_advice(own, advice) == {
        "search": {"pruning": {"margin": 0.1, "z": 2.0}, "trials": 3},
        "score": {"epochs": 1.0},
    }
    assert own == {"search": {"pruning": {"margin": 0.1}, "trials": 3}}


def made(short, shorter, full, early=None):
    """Readings of ``kd@1`` and ``kd@3`` (read at 1 as ``early``) of networks by rising cost."""

    def reading(index, kind, seed, epochs, of, quality):
        return Reading(f"n-{index:02d}", 2.0**index, 1.0, kind, seed, epochs, of, 1, quality, quality, 1.0, epochs)

    early = shorter if early is None else early
    for index, quality in enumerate(full):
        for seed in (0, 1):
            yield reading(index, "full", seed, 9.0, 9.0, quality + 0.001 * seed)
        yield reading(index, "kd@1", 0, 1.0, 1.0, shorter[index])
        yield reading(index, "kd@3", 0, 1.0, 3.0, early[index])
        yield reading(index, "kd@3", 0, 3.0, 3.0, short[index])


def advised(*rows, **more):
    study = Study(list(made(*rows, **more)))
    return advise(study, [{"flops": value} for value in study.flops], ("flops",))


RISING = [0.5 + 0.03 * index for index in range(12)]


def test_the_table_omits_early_readings_and_last_weights_by_field_and_not_by_name(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    study = Study(list(made(RISING, RISING, RISING)))
    shown = [read_out(study, "kd@3"), read_out(study, "kd@3", figure=Figure.LOSS)]
    hidden = [read_out(study, "kd@3", 1.0), read_out(study, "kd@3", figure=Figure.LAST)]
    ranked = [rank(study, replace(score, name=f"score{index}")) for index, score in enumerate((*shown, *hidden))]
    found = SimpleNamespace(networks=12, rankings=ranked, advice=None, report="r", advice_file="a")
    _print_calibration(found)
    text = capsys.readouterr().out
    assert [f"score{index}" in text for index in range(4)] == [True, True, False, False]


def test_the_shortest_length_that_ranks_as_well_is_advised():
    assert advised(RISING, RISING, RISING).keys["score"]["epochs"] == 1.0


def test_a_longer_length_is_advised_where_shorter_ones_rank_worse():
    worse = [0.5, 0.8, 0.6, 0.55, 0.7, 0.9, 0.65, 0.75, 0.95, 0.85, 0.7, 0.9]
    found = advised(RISING, worse, RISING)
    assert found.keys["score"]["epochs"] == 3.0
    assert "the best" in found.reasons[0]


def test_without_a_significant_tau_the_longest_length_is_advised():
    found = advised(RISING[::-1], RISING[::-1], RISING)
    assert found.keys["score"]["epochs"] == 3.0
    assert "calibrate with more networks" in found.reasons[0]


def test_the_advised_margin_stops_no_member_of_the_front():
    worse = [0.5, 0.8, 0.6, 0.55, 0.7, 0.9, 0.65, 0.75, 0.95, 0.85, 0.7, 0.9]
    full = [*RISING[:-1], 0.1]  # the most expensive ends badly
    early = [0.5 + 0.002 * index for index in range(12)]
    early[6] -= 0.008  # starts slowly, and ends on the front: 0.006 behind the one before it
    early[11] = 0.2
    found = advised(full, worse, full, early=early)
    assert found.keys["search"]["pruning"]["margin"] == 0.01
    assert found.keys["score"]["rungs"] == [0.3333, 1.0]
    assert yaml.safe_load(found.yaml()) == found.keys


def test_a_rung_that_stops_nothing_is_not_advised():
    worse = [0.5, 0.8, 0.6, 0.55, 0.7, 0.9, 0.65, 0.75, 0.95, 0.85, 0.7, 0.9]
    found = advised(RISING, worse, RISING, early=RISING)
    assert found.keys["score"]["rungs"] == [1.0]
    assert any("no rung" in reason for reason in found.reasons)


SCATTERED = [0.71, 0.64, 0.78, 0.69, 0.74, 0.61, 0.8, 0.66, 0.73, 0.77, 0.63, 0.7]


def test_a_slope_with_a_narrow_interval_is_advised():
    full = [score + 0.01 * index for index, score in enumerate(SCATTERED)]
    found = advised(SCATTERED, SCATTERED, full)
    assert found.keys["final"]["slope"] == pytest.approx(0.01, abs=1e-3)


def test_a_slope_with_a_wide_interval_is_not_advised():
    """Quality rises with the cost and hardly with the short score, so their ratio is almost arbitrary."""
    noise = [0.006, 0.0, -0.002, 0.005, -0.007, 0.003, 0.004, -0.006, 0.002, 0.007, -0.003, -0.005]
    full = [0.5 + 0.02 * index + error for index, error in enumerate(noise)]
    short = [score + error for score, error in zip(SCATTERED, noise)]
    found = advised(short, short, full)
    assert "final" not in found.keys
    (sentence,) = (reason for reason in found.reasons if reason.startswith("Finalists"))
    assert "95 % interval" in sentence
    assert "not advised" in sentence


def test_without_full_trainings_there_is_no_advice():
    assert advise(Study([entry for entry in made(RISING, RISING, RISING) if entry.kind != "full"]), [], ()) is None
