"""What reports say of tasks that are no classification."""

from dataclasses import replace

import pytest

from nas_distill.reports.card import card
from nas_distill.reports.final import export_lines, final_rows, finalists_table, result_lines
from nas_distill.reports.formatting import to_plain
from nas_distill.reports.model import CardFacts
from nas_distill.reports.tables import front_table
from nas_distill.tasks.multilabel import MultilabelEvaluation
from nas_distill.tasks.regression import RegressionEvaluation

LABELS = {
    "teacher": MultilabelEvaluation(0.8, 0.7, 1.9, 0.02, None, None, 0.01, 400),
    "student": MultilabelEvaluation(0.76, 0.66, 2.1, 0.03, 0.91, 0.95, 0.011, 400),
    "baseline": MultilabelEvaluation(0.72, 0.6, 2.4, 0.05, 0.88, 0.9, 0.012, 400),
}
TARGETS = {
    "teacher": RegressionEvaluation(0.9, 0.31, 0.22, None, None, 0.02, 400),
    "student": RegressionEvaluation(0.81, 0.43, 0.3, 0.88, 0.9, 0.03, 400),
    "baseline": RegressionEvaluation(0.8, 0.44, 0.31, 0.85, 0.88, 0.03, 400),
}
FACTS = CardFacts(
    title="Student",
    data="mine",
    input_shape=(8,),
    num_classes=2,
    teacher="big",
    builder="a:b",
    seed=0,
    class_names=("u", "v"),
)


def report_of(final, task, evaluations):
    models = {name: replace(getattr(final, name), evaluation=found) for name, found in evaluations.items()}
    return replace(final, task=task, **models)


@pytest.fixture
def labels(final):
    return report_of(final, "multilabel", LABELS)


@pytest.fixture
def targets(final):
    return report_of(final, "regression", TARGETS)


def rows(report):
    return {row[0]: row[1:-1] for row in final_rows(report)}


def test_a_multi_label_student_has_the_figures_of_its_task(labels):
    found = rows(labels)
    assert found["mean average precision"] == ["80.00 %", "76.00 %", "72.00 %"]
    assert found["share of teacher's"] == ["-", "95.00 %", "90.00 %"]
    assert found["agreement with teacher, label by label"] == ["-", "91.00 %", "88.00 %"]
    assert found["F1 at 0.5, averaged over labels"][0] == "70.00 %"
    assert found["ECE of labels (lower is better)"][0] == "2.00 %"
    assert found["NLL of all labels, nats (lower is better)"][0] == "1.9000"
    assert "validation mean average precision" in found
    assert not any("accuracy" in name for name in found)


def test_a_regression_student_has_the_figures_of_its_task(targets):
    found = rows(targets)
    assert found["R²"] == ["90.00 %", "81.00 %", "80.00 %"]
    assert found["agreement with teacher, R²"] == ["-", "88.00 %", "85.00 %"]
    assert found["RMSE (lower is better)"] == ["0.31", "0.43", "0.44"]
    assert found["MAE (lower is better)"] == ["0.22", "0.3", "0.31"]
    assert "validation R²" in found
    assert not any(word in name for name in found for word in ("accuracy", "ECE", "NLL"))


def test_sentences_name_the_quality(labels, targets):
    first, second, *_ = result_lines(labels)
    assert first.startswith("The student keeps 95.00 % of the teacher's mean average precision with")
    assert "known to within ±1.1 points" in first
    assert "labels only" in second
    assert second.endswith("+4.00 points, a gain.")
    first, second, *_ = result_lines(targets)
    assert "of the teacher's R² with" in first
    assert second.endswith("+1.00 points, which may be chance.")


def test_a_quality_below_zero_is_reported_unchanged(final):
    worse = {**TARGETS, "student": replace(TARGETS["student"], r2=-0.2)}
    first, *_ = result_lines(report_of(final, "regression", worse))
    assert first.startswith("The student's R² is -20.00 %, the teacher's 90.00 % with")


def test_exported_files_are_described_by_the_task(final, labels, targets):
    assert "same class for 99.80 %" in export_lines(final)[0]
    assert "same labels for 99.80 %" in export_lines(labels)[0]
    assert export_lines(targets)[0].endswith("differs from PyTorch by at most 2.9e-06.")


def test_tables_name_the_quality(run, labels, targets):
    assert str(finalists_table(targets).renderables[0].title) == "Finalists, by validation R²"
    assert str(finalists_table(labels).renderables[0].title) == "Finalists, by validation mean average precision"
    shown = front_table(run, ("flops",), task="regression")
    assert "quality: validation R² after the short distillation." in str(shown.renderables[-1])


def test_the_card_says_what_the_outputs_are(labels, targets):
    text = card(labels, FACTS)
    for part in (
        "A network that predicts which of 2 labels a sample has, distilled from big on mine",
        "the best by validation mean average precision is this one",
        "Output: logits, one per label (its sigmoid is the label's probability), of shape (batch, 2).",
        "Labels: 0 u, 1 v.",
        "It knows only the 2 labels of mine.",
    ):
        assert part in text
    text = card(targets, FACTS)
    for part in (
        "A network that predicts 2 targets of a sample (a regression)",
        "Output: values, in units of the targets, of shape (batch, 2).",
        "Targets: 0 u, 1 v.",
        "returns a number for any input",
    ):
        assert part in text
    assert "classes" not in text


def test_json_holds_every_figure(targets):
    plain = to_plain(targets)
    assert plain["task"] == "regression"
    assert plain["student"]["evaluation"]["r2"] == 0.81
