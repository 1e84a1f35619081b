"""Student cards: quality, costs, provenance and loading instructions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_distill.reports import formatting as words
from nas_distill.reports.final import effort_lines, export_lines, final_rows, models_of, result_lines, student_name
from nas_distill.reports.formatting import markdown_table
from nas_distill.reports.model import CardFacts, FinalReport
from nas_distill.tasks import find_task
from nas_distill.utils.errors import RunError
from nas_distill.utils.files import write_text

WITH = """\
import nas_distill as nd

model = nd.load_student("{folder}")  # an nn.Module in eval mode"""

WITH_BUILDER = """\
import nas_distill as nd

model = nd.load_student("{folder}", builder=build)  # the function that was given to the search"""

BY_HAND = """\
import importlib, json
from safetensors.torch import load_file

spec = json.load(open("{folder}/architecture.json"))
module, name = spec["builder"].split(":")
model = getattr(importlib.import_module(module), name)(**spec["keywords"])
model.load_state_dict(load_file("{folder}/model.safetensors"))
model.eval()"""

GRAPH = """\
import torch

model = torch.export.load("{folder}/model.pt2").module()  # predicts; cannot be trained further"""


def write_card(path: Path, report: FinalReport, facts: CardFacts) -> Path:
    """Write the card, whole or not at all, and return its path.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        write_text(path, card(report, facts))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def card(report: FinalReport, facts: CardFacts) -> str:
    """Return the card's Markdown; unknown facts are left out."""
    sections = [
        f"# {facts.title}",
        _summary(report, facts),
        _section("Results", _results(report)),
        _section("Exported files", _bullets(export_lines(report))),
        _section("How it was distilled", _recipe(report, facts)),
        _section("Input and output", _input(facts, report.task)),
        _section("How to load it", _load(report, facts)),
        _section("Limits of use", _bullets(_limits(report, facts))),
        _section("Provenance", _provenance(report, facts)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(report: FinalReport, facts: CardFacts) -> str:
    costs = words.costs(report.student.costs, ("params", "flops", "weight_bytes"))
    task = find_task(report.task)
    what = task.purpose.format(count=words.count(facts.num_classes, task.output, task.outputs))
    text = f"{what}, distilled from {facts.teacher} on {facts.data}"
    text += f"; {costs}" if costs else ""
    budget = ", ".join(f"{name} {limit.text(name)}" for name, limit in report.limits.items())
    found = "Its architecture was found by a search under known costs of each candidate"
    if report.gain is not None and report.gain.student_is_uniform:
        found = f"Its architecture needs no search ({report.gain.over}); the search found none better"
    return f"{text}. {found}{f' (budget: {budget})' if budget else ''}."


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines) if lines else ""


def _results(report: FinalReport) -> list[str]:
    header = [f"on {report.split} data", *(model.name for model in models_of(report)), "budget"]
    rows = [[row[0], *row[1:]] for row in final_rows(report)]
    return [markdown_table(header, rows), "", *_bullets(result_lines(report))]


def _bullets(lines: Sequence[str]) -> list[str]:
    return [f"- {line}" for line in lines]


def _recipe(report: FinalReport, facts: CardFacts) -> list[str]:
    samples = ", ".join(f"{count:,} {name}" for name, count in facts.samples.items())
    lines = [f"Data: {facts.data}{f' ({samples})' if samples else ''}.", f"Teacher: {facts.teacher}."]
    lines += [f"{name.capitalize()}: {text.rstrip('.')}." for name, text in facts.training.items()]
    chosen = f"Finalists distilled in full: {len(report.finalists)}"
    chosen += ", with the uniform network" if any(entry.uniform for entry in report.finalists) else ""
    lines += [f"{chosen}; the best by validation {find_task(report.task).quality_name} is this one."]
    return _bullets([*lines, *effort_lines(report), *report.notes])


def _input(facts: CardFacts, task: str) -> list[str]:
    shape = ", ".join(str(size) for size in facts.input_shape)
    what = find_task(task).result
    lines = [f"Input: float32 of shape (batch, {shape})", f"Output: {what} of shape (batch, {facts.num_classes})"]
    if rule := _rule(facts.normalisation):
        lines.insert(1, rule)
    if facts.class_names:
        lines.append(
            f"{find_task(task).outputs.capitalize()}: "
            + ", ".join(f"{index} {name}" for index, name in enumerate(facts.class_names))
        )
    return _bullets([f"{line}." for line in lines])


def _rule(normalisation: Mapping[str, Any] | None) -> str:
    if normalisation is None:
        return ""
    scale, mean, std = normalisation.get("scale", 1.0), normalisation.get("mean"), normalisation.get("std")
    scaled = "raw" if scale == 1 else f"raw / {1 / scale:g}"
    if mean is None or std is None:
        return "Normalisation: none" if scale == 1 else f"Normalisation: input = {scaled}"
    values = "; ".join(f"{name} {', '.join(f'{x:.6g}' for x in each)}" for name, each in (("mean", mean), ("std", std)))
    return f"Normalisation, by channel: input = ({scaled} - mean) / std with {values}"


def _load(report: FinalReport, facts: CardFacts) -> list[str]:
    folder = report.student_folder
    if facts.loads_by == "own builder":
        return [
            "With nas_distill and your builder:",
            "",
            *_code(WITH_BUILDER.format(folder=folder)),
            *_runtime(report),
        ]
    lines = ["With nas_distill:", "", *_code(WITH.format(folder=folder)), ""]
    if facts.loads_by == "builder":
        how = f"By hand, with PyTorch, safetensors and the builder `{facts.builder}`:"
        lines += [how, "", *_code(BY_HAND.format(folder=folder))]
    else:
        how = f"By hand, with PyTorch, as a graph (other programs may not find its builder, `{facts.builder}`):"
        lines += [how, "", *_code(GRAPH.format(folder=folder))]
    return [*lines, *_runtime(report)]


def _runtime(report: FinalReport) -> list[str]:
    lines = []
    for export in report.exports:
        if export.usage:
            lines += ["", f"With {export.runtime}:", "", *_code(export.usage.replace("{path}", export.path))]
    return lines


def _code(text: str) -> list[str]:
    return ["```python", *text.splitlines(), "```"]


def _limits(report: FinalReport, facts: CardFacts) -> list[str]:
    task = find_task(report.task)
    count = words.count(facts.num_classes, task.output, task.outputs)
    lines = [
        f"It knows only the {count} of {facts.data}{task.limits}. Inputs must resemble that data, normalised as above.",
        f"Figures are of the {report.split} data of {facts.data}; on other data they may be better or worse.",
    ]
    if report.conditions:
        lines.append("Latencies are valid only for the machine and the settings of their measurement.")
    return [*lines, *facts.limits_of_use]


def _provenance(report: FinalReport, facts: CardFacts) -> list[str]:
    lines = [
        f"Run `{report.run}`, {student_name(report)}, seed {facts.seed}.",
        f"Architecture `{report.architecture}`: `{json.dumps(report.values, sort_keys=True)}`.",
    ]
    if facts.teacher_fingerprint:
        lines.append(f"Teacher's weights: sha256 `{facts.teacher_fingerprint}`.")
    if facts.versions:
        lines.append("Versions: " + ", ".join(f"{name} {version}" for name, version in facts.versions.items()) + ".")
    lines += [f"Host: {facts.host}."] if facts.host else []
    lines += [f"Made on {facts.created}."] if facts.created else []
    return _bullets(lines)
