"""The page on distillation: its rows of losses, compared with the registry."""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml

from nas_distill.config import SearchFile, default_loss, parse
from nas_distill.distill.losses import find_loss, loss_names
from nas_distill.distill.objective import find_terms
from nas_distill.tasks import find_task, task_names

PAGE = (Path(__file__).parents[1] / "docs" / "distillation.md").read_text(encoding="utf-8")


def rows():
    """Rows of all tables of losses, as they are written: name -> heading -> cell."""
    found = {}
    for table in re.findall(r"(?:^\|.*\|\n)+", PAGE, flags=re.MULTILINE):
        head, _, *body = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
        if head[:2] != ["name", "what it compares"]:
            continue
        for row in body:
            assert len(row) == len(head), row
            name = row[0].strip("`")
            assert name not in found, f"{name} has two rows"
            found[name] = dict(zip(head, row))
    return found


def words(annotation):
    """The words of every Literal in an annotation."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in words(part))


ROWS = rows()


def test_every_built_in_loss_has_its_row_and_there_is_no_other():
    assert sorted(ROWS) == loss_names()


@pytest.mark.parametrize("name", ROWS)
def test_the_row_is_true_of_the_code(name):
    row, spec = ROWS[name], find_loss(name)
    assert float(row["weight"]) == pytest.approx(spec.weight)
    # A loss that reads layers is in a table that says which; in brackets, of which kinds.
    assert re.sub(r" \(.*\)$", "", row.get("layers", "none")) == ("own " if spec.own else "") + spec.layers
    if spec.layers != "none":
        assert row["read from the teacher"] == ("nothing" if spec.own else spec.reduction)
    stated = dict(span.split(": ", 1) for span in re.findall(r"`(\w+: [^`]+)`", row["options"]))
    defaults = {key: field.default for key, field in spec.options.model_fields.items()}
    assert {key: yaml.safe_load(value) for key, value in stated.items()} == defaults
    assert stated or row["options"] == "none"
    for field in spec.options.model_fields.values():
        for word in words(field.annotation):
            assert re.search(rf"`(\w+: )?{word}`", row["options"]), f"'{word}' is not spelt out"
    assert len(row["what it compares"]) > 10


@pytest.mark.parametrize("name", ROWS)
def test_the_source_is_that_of_the_docstring(name):
    shown, linked = re.findall(r"\[([\d.]+)\]", ROWS[name]["source"]), re.findall(r"abs/([\d.]+)", ROWS[name]["source"])
    assert shown == linked
    in_code = re.findall(r"arXiv:([\d.]+\d)", find_loss(name).make.__doc__ or "")
    assert set(linked) <= set(in_code), f"the docstring cites {in_code}"
    assert bool(linked) == bool(in_code)


def test_lists_of_terms_in_the_page_are_accepted():
    examples = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.M | re.DOTALL)]
    found = [example for example in examples if "loss" in (example or {}).get("score", {})]
    assert found
    for example in found:
        base = {"data": "digits", "teacher": "fashion-resnet", "space": "mbconv", "budget": {"flops": "50%"}}
        assert find_terms(parse(SearchFile, {**base, **example}, source="example").score.training.loss)


def test_the_table_of_tasks_is_true_of_the_code():
    (table,) = re.findall(r"^\| task \| labels `y` .*\n\|.*\n((?:\|.*\|\n)+)", PAGE, flags=re.MULTILINE)
    rows = [[cell.strip().strip("`") for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    assert [row[0] for row in rows] == list(task_names())
    for task, _, quality, labels, answers in rows:
        assert quality == find_task(task).quality_name
        assert (labels, answers) == (find_task(task).labels_loss, find_task(task).answers_loss)
        assert [(term.name, term.weight) for term in default_loss(task)] == [(labels, 0.1), (answers, 0.9)]
        assert find_terms(default_loss(task), task=task)


def test_losses_for_classes_only_are_those_that_the_page_lists():
    anything = {name for name in loss_names() if not find_loss(name).tasks}
    on_logits = {name for name in loss_names() if find_loss(name).layers == "none"}
    assert on_logits & anything == {"mse", "cosine_logits"}
    assert set(loss_names()) - on_logits - anything == {"byot"}
