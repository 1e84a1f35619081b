import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from nas_distill.costs.budget import Limit
from nas_distill.reports.final import final_table, finalists_table
from nas_distill.reports.model import CostRow, CostSummary, FinalistResult, FinalReport, ModelResult, Savings
from nas_distill.reports.tables import cost_table, front_table, trial_table
from nas_distill.runs.pareto import front_records
from nas_distill.runs.records import Stop


def shown(renderable, width=140):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def row_of(text, start):
    return next(line.split() for line in text.splitlines() if line.split()[: len(start.split())] == start.split())


SUMMARY = CostSummary(
    space="mbconv",
    size="1.2e9 architectures (exact)",
    sampled=152,
    rows=(
        CostRow("flops", 5.2e4, 1.4e6, 2.2e7, 2.1e7, Limit(high=2e6), 0.31, objective=True),
        CostRow("latency_ms", 0.05, 0.31, 2.2, 3.3, Limit(high=0.5), 0.62, error=0.062),
        CostRow("weight_bytes", 8e3, 2.4e5, 3.2e6, 2.4e6, Limit(1e4, 5.24e5), 0.004),
        CostRow("params", 2e3, 6e4, 8e5, 6e5),
    ),
    trials=40,
    workers=2,
    unbuildable=3,
    first_cause="ValueError: width [8] is odd",
    fits_all=0.28,
    search_seconds=190.0,
    final_seconds=75.0,
    conditions="ONNX Runtime 1.32.0, batch 1, 1 thread, a CPU",
)


def test_the_cost_table_shows_costs_and_times_before_the_search():
    text = shown(cost_table(SUMMARY))
    assert " ".join(row_of(text, "flops *")) == "flops * 52 k 1.4 M 22 M 21 M <= 2 M 31 %"
    assert " ".join(row_of(text, "latency_ms 0.05")) == ("latency_ms 0.05 ms 0.31 ms 2.2 ms 3.3 ms <= 0.5 ms 62 %")
    assert row_of(text, "weight_bytes")[-3:] == ["<", "1", "%"]
    assert row_of(text, "params")[-2:] == ["-", "-"]
    for part in (
        "Space mbconv: 1.2e9 architectures (exact)",
        "152 candidates evaluated: 28 % within the budget",
        "refused 3 of them, first with: ValueError: width [8] is odd.",
        "40 trials on 2 workers: at most 3 min 10 s",
        "about 1 min 15 s of full distillation",
        "latency_ms is predicted, for half of the candidates to within 6 %",
        "batch 1, 1 thread",
    ):
        assert part in text


def test_unknown_values_are_left_out_of_the_cost_table():
    text = shown(cost_table(CostSummary("toy", "9", 9, (CostRow("params", 1, 2, 3),), trials=1, workers=1)))
    assert row_of(text, "cost") == ["cost", "cheapest", "median", "largest"]
    assert "1 trial on 1 worker." in text
    assert "budget" not in text


@pytest.mark.parametrize("width", [80, 200])
def test_tables_keep_all_figures_on_a_narrow_terminal(width, run, final):
    text = shown(cost_table(SUMMARY), width)
    for figure in ("52 k", "1.4 M", "2.2 ms", "2.29 MiB", "31 %"):
        assert figure in text
    assert "98.50 %" in shown(final_table(final), width)
    assert max(map(len, text.splitlines())) <= width


def test_figures_of_the_cost_table_are_not_broken_at_80_columns():
    rows = (
        CostRow("flops", 13.9e3, 80.8e3, 231e3, 231e3, Limit(9.23e4, 1.02e5), 0.57, objective=True),
        CostRow("peak_activation_bytes", 2048, 5120, 8192, 8192, Limit(high=6000), 0.004),
        CostRow("latency_ms", 0.0104, 0.0119, 0.0132, 0.0129, Limit(high=0.0125), 0.5),
    )
    text = shown(cost_table(replace(SUMMARY, rows=rows)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(row_of(text, "latency_ms")[:9]) == "latency_ms 0.0104 ms 0.0119 ms 0.0132 ms 0.0129 ms"
    assert row_of(text, "peak_activation_bytes")[-3:] == ["<", "1", "%"]
    assert all(limit in text for limit in ("92.3 k", "102 k", "0.0125 ms"))


def test_the_front_is_sorted_by_cost_and_shows_full_quality_and_budget(run, final):
    front = front_records(run, ["flops"])
    text = shown(front_table(run, ["flops"], limits={"flops": Limit(high=1e6)}, finalists=final.finalists))
    numbers = [int(line.split()[0]) for line in text.splitlines() if line.split() and line.split()[0].isdigit()]
    assert numbers == [record.number for record in front]
    assert f"Front: {len(front)} trials" in text
    assert row_of(text, "trial")[:6] == ["trial", "quality", "in", "full", "flops", "params"]
    over = next(record for record in front if record.costs["flops"] > 1e6)
    assert row_of(text, str(over.number))[-2:] == ["over", "flops"]
    assert row_of(text, str(front[0].number))[-1] == "within"
    assert f"* {100 * final.finalists[0].full:.2f} %" in text


def test_a_student_off_the_front_is_named_below_it(run):
    front = front_records(run, ["flops"])
    other = next(record for record in run if record.state == "complete" and record not in front)
    for record, note in ((front[0], "*: the student."), (other, f"The student, trial {other.number}, has 91.00 %")):
        finalist = FinalistResult(record.number, record.costs, record.final_quality, 0.91, chosen=True)
        finalists = [finalist, FinalistResult(front[-1].number, front[-1].costs, 0.9, 0.9)]
        assert note in shown(front_table(run, ["flops"], finalists=finalists))


def test_a_run_without_complete_trials_has_no_front():
    assert "no front" in shown(front_table([], ["flops"]))


def test_a_stopped_trial_names_what_dominates_it(record):
    stop = Stop(1, 0.80, 12, 0.83, 0.005, "trial 12 costs no more and was clearly better")
    text = shown(trial_table(record(7, "pruned", qualities=(0.7, 0.8), stop=stop, values={"a": "[red]", "b": 2})))
    assert "7: stopped early" in text
    assert "trial 12, ahead by +3.00 points at rung 1 (0.50 points were needed)" in text
    assert "rung 1        80.00 %  (after 33 % of the training" in text
    assert "[red]" in text
    assert "saved" in text


def test_other_outcomes_of_trials_are_explained(record):
    over = record(1, "over_budget", flops=3e6, violations={"flops": 0.5})
    assert "50 % outside the limit" in shown(trial_table(over))
    failed = record(2, "failed", cause="ValueError: [bold] is no width")
    assert "cause         ValueError: [bold] is no width" in shown(trial_table(failed))
    assert "trial 1" in shown(trial_table(record(3, "duplicate", duplicate_of=1)))
    assert "continues     trial 2" in shown(trial_table(record(4, retry_of=2)))


def test_the_final_table_compares_teacher_student_and_hard_labels(final):
    text = shown(final_table(final))
    assert row_of(text, "accuracy") == ["accuracy", "94.00", "%", "92.59", "%", "90.00", "%"]
    assert row_of(text, "ECE")[-6:] == ["2.10", "%", "1.50", "%", "1.80", "%"]
    assert row_of(text, "NLL,")[-3:] == ["0.2011", "0.2301", "0.2401"]
    assert row_of(text, "share of teacher's")[-5:] == ["-", "98.50", "%", "95.70", "%"]
    assert row_of(text, "agreement with")[-5:] == ["-", "95.10", "%", "93.90", "%"]
    assert row_of(text, "latency, predicted")[-3:] == ["<=", "0.5", "ms"]
    assert row_of(text, "latency, measured p95")[-5:] == ["3.4", "ms", "0.44", "ms", "-"]
    assert row_of(text, "speed-up,")[-3:] == ["-", "8.0x", "-"]


def test_the_final_table_explains_the_figures_and_their_uncertainty(final):
    text = " ".join(shown(final_table(final)).split())
    for part in (
        "The student keeps 98.50 % of the teacher's accuracy",
        "fewer flops",
        "within ±0.8 points (4,000 samples, 95 %)",
        "same architecture: +2.59 points, a gain.",
        "Pruning stopped 22 of 39 trained candidates and saved 40 % of the training (2 min 40 s).",
        "Never trained: 31 candidates over budget and 4 repeats. Failed: 1.",
        "Running the teacher once took 8.0 s; beside every student it would have taken 3 min 10 s more.",
        "Total time 5 min 30 s.",
        "Kendall's tau 1.00 (too few for an interval); the best short score was the best student.",
        "240 KiB, differs from PyTorch by at most 2.9e-06, same class for 99.80 % of 512.",
        "A note [with] brackets.",
        "All results are in runs/quickstart.",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.9259, "may be chance"), (0.93, "may be chance"), (0.95, "a loss: it did not help"), (0.90, "a gain")],
)
def test_a_difference_is_a_gain_a_loss_or_perhaps_chance(final, accuracy, verdict):
    from dataclasses import replace

    baseline = replace(final.baseline, evaluation=replace(final.baseline.evaluation, accuracy=accuracy))
    assert f"{verdict}." in shown(final_table(replace(final, baseline=baseline)), 200)


def test_a_report_with_few_figures_has_no_empty_rows():
    report = FinalReport("runs/x", ModelResult("teacher"), ModelResult("student", validation=0.9), 3, "abc")
    text = shown(final_table(report))
    assert row_of(text, "validation accuracy") == ["validation", "accuracy", "-", "90.00", "%"]
    for absent in ("ECE", "latency", "Pruning", "Trust", "budget", "hard labels"):
        assert absent not in text


def test_a_search_that_trained_nothing_reports_no_savings():
    report = FinalReport("r", ModelResult("teacher"), ModelResult("student"), 0, "abc", savings=Savings())
    assert "saved" not in shown(final_table(report))


def test_candidates_below_a_lower_limit_are_not_counted_as_over_budget():
    saved = Savings(over_budget=7, below=3)
    report = FinalReport("r", ModelResult("teacher"), ModelResult("student"), 0, "abc", savings=saved)
    assert "Never trained: 4 candidates over budget, 3 below the lower limit and 0 repeats." in shown(
        final_table(report)
    )


def test_finalists_are_listed_best_first_and_failures_last(final):
    from dataclasses import replace

    failed = FinalistResult(99, {"flops": 1e6}, 0.9, None, cause="its loss became NaN")
    text = shown(finalists_table(replace(final, finalists=(failed, *final.finalists))))
    rows = [line.replace("*", " ").split() for line in text.splitlines() if " M " in f"{line} "]
    assert rows[0][0] == str(final.trial)
    assert rows[-1][0] == "99"
    assert f"* {final.trial} " in text
    assert "*: the student." in text
    assert "Trial 99 failed: its loss became NaN." in text
    assert "+0.90 " in text


@pytest.mark.parametrize("table", ["costs", "front", "final", "finalists"])
def test_tables_fit_a_narrow_terminal_without_cutting_names(run, final, table):
    costs = ("flops", "params", "weight_bytes", "peak_activation_bytes", "latency_ms")
    paid = {**dict.fromkeys(costs, 123456.0), "latency_ms": 0.123}
    wide = [replace(record, costs=paid) for record in run]
    entries = tuple(replace(entry, costs=paid) for entry in final.finalists)
    rows = tuple(CostRow(name, 1.2e4, 1.4e5, 2.2e5, 2.1e5, Limit(high=2e5), 0.31, name == "flops") for name in costs)
    models = {name: replace(getattr(final, name), costs=paid) for name in ("teacher", "student", "baseline")}
    drawn = {
        "costs": lambda: cost_table(replace(SUMMARY, rows=rows)),
        "front": lambda: front_table(wide, ["flops"], finalists=entries),
        "final": lambda: final_table(replace(final, **models)),
        "finalists": lambda: finalists_table(replace(final, finalists=entries)),
    }
    text = shown(drawn[table](), width=80)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    if table in ("costs", "final"):
        for name in ("flops", "params", "weight_bytes", "peak_activation_bytes"):
            assert re.search(rf"^ ?{name}\b", text, re.MULTILINE)


def test_the_written_phases_add_up_to_the_total(final):
    phases = {"survey of the space": 3.4, "search": 708.5, "full distillation": 1328.4, "report": 0.2, "other": 0.6}
    savings = Savings(wall_seconds=sum(phases.values()), phases=phases)
    text = " ".join(shown(final_table(replace(final, savings=savings))).split())
    found = re.search(r"Total time (.*?): (.*?)\.", text)
    total, *parts = [found[1], *found[2].split(", ")]
    assert seconds_of(total) == 2041 == sum(seconds_of(part) for part in parts)


def seconds_of(text):
    found = re.search(r"(?:(\d+) min )?(\d+) s$", text)
    return 60 * int(found[1] or 0) + int(found[2])
