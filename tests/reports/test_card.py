import ast
import re
from dataclasses import replace

import pytest

from nas_distill.reports.card import card, write_card
from nas_distill.reports.formatting import markdown_table
from nas_distill.reports.model import CardFacts, FinalReport, ModelResult
from nas_distill.utils.errors import RunError

FACTS = CardFacts(
    title="Student of fashion-teacher",
    data="fashion-mnist",
    input_shape=(1, 28, 28),
    num_classes=3,
    teacher="fashion-teacher",
    builder="nas_distill.models.mbconv:build",
    seed=5,
    samples={"train": 12000, "val": 2000, "test": 4000},
    class_names=("T-shirt", "trousers", "bag"),
    normalisation={"scale": 1 / 255, "mean": [0.286], "std": [0.353]},
    teacher_fingerprint="ab" * 32,
    training={"loss": "0.9 x KD at T = 4", "length": "12 epochs"},
    versions={"torch": "2.13.0"},
    host="a CPU",
    created="2026-11-24",
    limits_of_use=("Not for aircraft.",),
)


def code_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_card_holds_all_facts_in_fixed_sections(final):
    text = card(final, FACTS)
    for part in (
        "# Student of fashion-teacher",
        "A classifier of 3 classes, distilled from fashion-teacher on fashion-mnist",
        "budget: flops at most 2 M",
        "| accuracy | 94.00 % | 92.59 % | 90.00 % |  |",
        "differs from PyTorch by at most 2.9e-06",
        "fashion-mnist (12,000 train, 2,000 val, 4,000 test)",
        "Loss: 0.9 x KD at T = 4.",
        "Input: float32 of shape (batch, 1, 28, 28).",
        "input = (raw / 255 - mean) / std with mean 0.286; std 0.353",
        "Classes: 0 T-shirt, 1 trousers, 2 bag.",
        "seed 5",
        final.architecture,
        "abababab",
        "torch 2.13.0",
        "Host: a CPU.",
        "Made on 2026-11-24.",
        "- Not for aircraft.",
        "ONNX Runtime 1.32.0, batch 1",
    ):
        assert part in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Results",
        "Exported files",
        "How it was distilled",
        "Input and output",
        "How to load it",
        "Limits of use",
        "Provenance",
    ]


def test_code_of_the_card_is_valid_and_names_the_students_folder(final):
    blocks = code_blocks(card(final, FACTS))
    assert len(blocks) == 3
    for block in blocks:
        ast.parse(block)
        assert "runs/quickstart/students/t7" in block
    assert "load_file" in blocks[1]
    assert "(1, 1, 28, 28)" in blocks[2]


def test_a_builder_that_cannot_be_imported_is_loaded_as_a_graph(final):
    text = card(final, replace(FACTS, loads_by="graph", builder="__main__:build"))
    assert "model.pt2" in code_blocks(text)[1]
    assert "load_file" not in text


@pytest.mark.parametrize(
    ("normalisation", "said"),
    [
        (None, None),
        ({"scale": 1.0, "mean": None, "std": None}, "Normalisation: none."),
        ({"scale": 1 / 255, "mean": None, "std": None}, "Normalisation: input = raw / 255."),
        (
            {"scale": 1.0, "mean": [0.5, 0.4], "std": [0.2, 0.1]},
            "input = (raw - mean) / std with mean 0.5, 0.4; std 0.2, 0.1",
        ),
    ],
)
def test_normalisation_is_described(final, normalisation, said):
    text = card(final, replace(FACTS, normalisation=normalisation))
    assert ("Normalisation" in text) == (said is not None)
    assert said is None or said in text


def test_unknown_facts_leave_no_empty_heading():
    report = FinalReport("runs/x", ModelResult("teacher"), ModelResult("student", validation=0.9), 3, "abc")
    facts = CardFacts("A student", "own data", (4,), 2, "a teacher", "my.module:build", 0)
    text = card(report, facts)
    assert "Exported files" not in text
    assert "None" not in text
    assert "nan " not in text
    assert not re.search(r"^## .*\n+(## |\Z)", text, re.MULTILINE)


def test_bars_and_line_breaks_do_not_break_a_table():
    lines = markdown_table(["a|b", "c"], [["x\ny", "1"]]).splitlines()
    assert lines == [r"| a\|b | c |", "| :-- | --: |", "| x y | 1 |"]


def test_the_card_is_written_whole(final, tmp_path):
    path = write_card(tmp_path / "r" / "card.md", final, FACTS)
    assert path.read_text(encoding="utf-8") == card(final, FACTS)
    assert [entry.name for entry in path.parent.iterdir()] == ["card.md"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"card\.md cannot be written"):
        write_card(tmp_path / "file" / "card.md", final, FACTS)
