"""The sentence on the gain of a search, and its place in table, card and JSON."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from nas_distill.costs.budget import Limit
from nas_distill.reports.card import card
from nas_distill.reports.final import final_table, finalists_table, models_of, result_lines, student_name
from nas_distill.reports.formatting import to_plain
from nas_distill.reports.gain import gain_lines
from nas_distill.reports.model import CardFacts, FinalistResult, Gain
from nas_distill.reports.tables import front_table

FACTS = CardFacts("Student", "fashion-mnist", (1, 28, 28), 10, "teacher", "a:b", 0)


def with_gain(final, difference=0.012, low=0.004, high=0.02, *, costs=None, speed=1.3, **more):
    costs = costs or {"flops": 0.98, "params": 0.9}
    theirs = {name: final.student.costs[name] / share for name, share in costs.items()}
    evaluation = replace(final.student.evaluation, accuracy=final.student.evaluation.accuracy - difference)
    uniform = replace(
        final.student,
        name="uniform narrowing",
        evaluation=evaluation,
        costs=theirs,
        latency_p50_ms=None if speed is None else speed * final.student.latency_p50_ms,
    )
    gain = Gain("uniform narrowing", False, difference, low, high, 4000, costs, speed)
    return replace(final, uniform=uniform, gain=gain, **more)


def shown(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def sentence(report):
    (line,) = gain_lines(report)
    return line


def test_a_gain_has_its_interval_its_costs_and_what_the_error_covers(final):
    line = sentence(with_gain(final))
    assert line.startswith("The search gained +1.20 points of accuracy over uniform narrowing (")
    assert "95 % interval +0.40 to +2.00 over test samples, one training each" in line
    assert line.endswith("at 98 % of its flops and 1.30 times its speed.")


@pytest.mark.parametrize(
    ("difference", "low", "high", "verdict", "said"),
    [
        (0.012, 0.004, 0.02, "gain", "gained +1.20 points"),
        (0.003, -0.004, 0.01, "tie", "a difference of +0.30 points of accuracy may be chance"),
        (-0.003, -0.01, 0.004, "tie", "a difference of -0.30 points of accuracy may be chance"),
        (0.004, 0.0, 0.01, "tie", "may be chance"),
        (-0.012, -0.02, -0.004, "loss", "a difference of -1.20 points of accuracy is a loss"),
        (0.012, None, None, "tie", "the error is unknown"),
    ],
)
def test_what_the_interval_does_not_exclude_is_not_called_a_gain(final, difference, low, high, verdict, said):
    report = with_gain(final, difference, low, high)
    assert report.gain.verdict == verdict
    line = sentence(report)
    assert said in line
    assert ("did not gain" in line) == (verdict != "gain")


def test_a_much_cheaper_student_is_compared_with_both_costs(final):
    line = sentence(with_gain(final, 0.001, -0.01, 0.01, costs={"flops": 0.5}, speed=1.9))
    ours, theirs = final.student.costs["flops"], 2 * final.student.costs["flops"]
    assert "may be chance" in line
    assert f", but at 50 % of its flops ({ours / 1e6:.3g} M against {theirs / 1e6:.3g} M)" in line
    # Cheaper in one, more expensive in another: no "but".
    assert ", at 50 %" in sentence(with_gain(final, 0.001, -0.01, 0.01, costs={"flops": 0.5}, speed=0.7))


def test_costs_are_the_limited_ones_and_flops_where_only_latency_is_limited(final):
    limited = replace(final, limits={"params": Limit(high=1e6), "flops": Limit(high=2e6)})
    assert "at 90 % of its params, 98 % of its flops and 1.30 times" in sentence(with_gain(limited))
    only_time = replace(final, limits={"latency_ms": Limit(high=0.5)})
    costs = {"flops": 0.98, "latency_ms": 0.6}
    assert sentence(with_gain(only_time, costs=costs)).endswith("at 98 % of its flops and 1.30 times its speed.")
    assert "speed" not in sentence(with_gain(final, speed=None))


def test_validation_samples_are_named_as_such(final):
    assert "over validation samples" in sentence(with_gain(final, split="val"))


def as_student(final, trial, others=()):
    chosen = FinalistResult(trial, final.student.costs, 0.9, 0.93, chosen=True, uniform=True)
    gain = Gain("uniform narrowing", True, 0.0, 0.0, 0.0, 4000, {"flops": 1.0}, 1.0)
    return replace(final, trial=trial, finalists=(chosen, *others), uniform=final.student, gain=gain)


def test_if_the_uniform_network_is_the_student_the_report_says_that_nothing_better_was_found(final):
    other = FinalistResult(4, final.student.costs, 0.95, 0.92)
    failed = FinalistResult(5, final.student.costs, 0.95, None, cause="no luck")
    report = as_student(final, 7, (other, failed))
    line = sentence(report)
    assert line.startswith("The search did not gain over uniform narrowing, which is the student")
    assert "the best other finalist 92.00 %" in line
    assert "every other finalist failed" in sentence(as_student(final, 7, (failed,)))
    assert "the only finalist" in sentence(as_student(final, 7))
    assert [model.name for model in models_of(report)] == ["teacher", "student", "hard labels"]  # no column twice
    assert student_name(report) == "uniform narrowing (trial 7)"
    assert "needs no search" in card(report, FACTS)


def test_a_student_that_was_no_candidate_has_no_number(final):
    report = as_student(final, None)
    assert student_name(report) == "uniform narrowing"
    assert "Student: uniform narrowing, architecture" in shown(final_table(report))
    for text in (shown(final_table(report)), shown(finalists_table(report)), card(report, FACTS)):
        assert "None" not in text
    assert to_plain(report)["trial"] is None


def test_without_a_uniform_network_there_is_no_sentence_and_no_column(final):
    assert final.gain is None
    assert gain_lines(final) == []
    assert "uniform" not in shown(final_table(final))
    assert to_plain(final)["gain"] is None


def test_table_card_and_json_have_the_comparison(final):
    report = with_gain(final)
    text = card(report, FACTS)
    assert f"- {sentence(report)}" in text
    assert "| teacher | student | hard labels | uniform narrowing | budget |" in text
    assert sentence(report) in result_lines(report)
    assert sentence(report) in " ".join(shown(final_table(report)).split())
    plain = json.loads(json.dumps(to_plain(report)))
    assert plain["gain"]["verdict"] == "gain"
    assert (plain["gain"]["difference"], plain["gain"]["low"], plain["gain"]["high"]) == (0.012, 0.004, 0.02)
    assert plain["uniform"]["evaluation"]["accuracy"] == report.uniform.evaluation.accuracy


def test_the_table_of_four_models_keeps_all_figures_in_80_columns(final):
    costs = ("flops", "params", "weight_bytes", "peak_activation_bytes", "latency_ms")
    paid = {**dict.fromkeys(costs, 123456.0), "latency_ms": 0.123}
    report = with_gain(final)
    names = ("teacher", "student", "baseline", "uniform")
    named = {
        "baseline": {"name": "same architecture, labels only"},
        "uniform": {"name": "uniform narrowing", "latency_p50_ms": 0.513, "latency_p95_ms": 0.523},
    }
    wide = {name: replace(getattr(report, name), costs=paid, **named.get(name, {})) for name in names}
    text = shown(final_table(replace(report, **wide)))
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    row = next(line for line in text.splitlines() if line.startswith("accuracy"))
    assert row.split()[1::2] == ["94.00", "92.59", "90.00", "91.39"]
    row = next(line for line in text.splitlines() if "peak_activation_bytes" in line)
    assert row.count("121 KiB") == 4


def test_finalists_and_front_name_the_uniform_network(final, run):
    uniform = FinalistResult(None, final.student.costs, None, 0.91, uniform=True)
    report = replace(final, finalists=(*final.finalists, uniform))
    row = next(line for line in shown(finalists_table(report)).splitlines() if "uniform" in line)
    assert "91.00 %" in row
    marked = tuple(replace(entry, uniform=entry.chosen) for entry in final.finalists)
    assert f"* {final.trial}, uniform" in shown(finalists_table(replace(final, finalists=marked)))
    chosen = (replace(uniform, chosen=True),)
    assert "The student, uniform network, has 91.00 %" in shown(front_table(run, ["flops"], finalists=chosen))


def test_a_failed_uniform_network_is_named(final):
    failed = FinalistResult(None, final.student.costs, None, None, cause="its loss became NaN", uniform=True)
    text = shown(finalists_table(replace(final, finalists=(*final.finalists, failed))))
    assert "Uniform network failed: its loss became NaN." in text
    assert not math.isnan(final.trust.kendall)
