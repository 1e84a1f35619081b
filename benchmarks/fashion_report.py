"""Report of the Fashion-MNIST benchmark: test data, latency, and differences that exceed their error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from common import Quartiles, table
from rivals import LABELS, OURS, RANDOM, SCALED, Network, Rivals, teacher_costs
from torch import Tensor, nn
from trainings import Book, say

from nas_distill.costs import format_cost
from nas_distill.costs.timing import conditions, time_modules
from nas_distill.data import Dataset
from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.predict import predict_logits
from nas_distill.export.student import load_student
from nas_distill.runs.pareto import front_hypervolume
from nas_distill.study import Run
from nas_distill.tasks.classification import Classification
from nas_distill.utils.errors import NasDistillError

ROUNDS = 7
TEACHER = "teacher"


def report(run: Run, rivals: Rivals, *, retime: bool) -> list[str]:
    """Evaluate and time what was trained (once; it is kept), and return the page's parts."""
    networks = rivals.networks()
    results = _evaluate(run, rivals, networks)
    latency = _latency(run, rivals, networks, retime)
    return [
        _about(run, rivals, results),
        _main_table(run, networks, results, latency),
        _verdicts(networks, results),
        _fronts(run, rivals),
    ]


def _evaluate(run: Run, rivals: Rivals, networks: list[Network]) -> dict[str, Any]:
    """Evaluate every student on the test split; predictions are kept, one row per seed."""
    book = Book(rivals.folder / "evaluations.json")
    data = run.problem.data
    labels = data.labels(data.splits[-1])
    teacher = _logits(run.problem.teacher.module, data)
    if TEACHER not in book:
        book[TEACHER] = {"accuracy": accuracy(teacher, labels), "count": len(labels)}
    for network in networks:
        for student in network.students:
            key = f"{network.name}/{student.name}"
            if key in book:
                continue
            say(f"Evaluating {key}.")
            logits = _logits(load_student(student), data)
            found = Classification().evaluate(logits, labels, teacher)
            wrong = np.flatnonzero((logits.argmax(1) != labels).numpy())
            book[key] = {
                "accuracy": found.accuracy,
                "agreement": found.agreement,
                "retained": found.retained,
                "nll": found.nll,
                "ece": found.ece,
                "wrong": wrong.tolist(),
            }
    found_by = {
        network.name: [book[f"{network.name}/{student.name}"] for student in network.students] for network in networks
    }
    return {TEACHER: book[TEACHER], **found_by}


def _logits(module: nn.Module, data: Dataset) -> Tensor:
    split = data.splits[-1]
    return predict_logits(module, data.inputs(split))


def _latency(run: Run, rivals: Rivals, networks: list[Network], retime: bool) -> dict[str, list[float]]:
    """Time teacher and students on ONNX Runtime, taking turns; p50 in ms, one figure a round."""
    book = Book(rivals.folder / "latency.json")
    modules = {TEACHER: run.problem.teacher.module}
    modules |= {network.name: load_student(network.students[0]) for network in networks if network.name != LABELS}
    if retime or any(name not in book for name in modules):
        say("Timing; nothing else should run now.")
        stated = run.config.latency
        found: dict[str, list[float]] = {name: [] for name in modules}
        for _ in range(ROUNDS):
            samples = time_modules(
                list(modules.values()),
                run.problem.input_shape,
                batch=stated.batch,
                threads=stated.threads,
                repeats=stated.repeats,
            )
            for name, sample in zip(modules, samples, strict=True):
                if isinstance(sample, NasDistillError):
                    raise sample
                found[name].append(sample.p50_ms)
        for name, times in found.items():
            book[name] = times
    return {name: book[name] for name in modules}


def _about(run: Run, rivals: Rivals, results: dict[str, Any]) -> str:
    config, data = run.config, run.problem.data
    spent = sum(rivals.book[f"{RANDOM}-{place:03d}"]["steps"] * costs["flops"] for place, (_, costs) in _drawn(rivals))
    records = [record for record in run.records if record.trained]
    stopped = sum(record.state == "pruned" for record in records)
    limits = ", ".join(f"{name} {limit}" for name, limit in config.budget.items())
    return f"""{data.name}: {len(data.train):,} training, {len(data.val):,} validation, {results[TEACHER]["count"]:,}
test images. The teacher has {format_cost("flops", teacher_costs(run)["flops"])} FLOPs; the budget is {limits}. The
search looked at {len(records)} candidates of space {run.problem.space.name} ({stopped} stopped early;
{config.score.training.epochs:g} epochs for a whole look) and paid {rivals.training_cost:.3g} steps x FLOPs for it;
random search got {len(rivals.drawn)} candidates, all trained to their end, for {spent:.3g}. Both distilled
{config.final.count} finalists, chosen alike, and took the best by validation. Full trainings:
{config.final.training.epochs:g} epochs. Random search's network and the scaled ones are distilled as
the student is: only the architecture differs."""


def _drawn(rivals: Rivals) -> list[tuple[int, tuple[Any, dict[str, float]]]]:
    return [
        (place, entry)
        for place, entry in enumerate(rivals.drawn)
        if rivals.book[f"{RANDOM}-{place:03d}"]["quality"] is not None
    ]


def _main_table(run: Run, networks: list[Network], results: dict[str, Any], latency: dict[str, list[float]]) -> str:
    teacher = teacher_costs(run)
    pace = Quartiles.of(latency[TEACHER])
    rows: list[list[object]] = [
        [
            "teacher",
            f"{results[TEACHER]['accuracy']:.2%}",
            "",
            "",
            format_cost("flops", teacher["flops"]),
            format_cost("params", teacher["params"]),
            f"{pace.median:.3f}",
            "1",
        ]
    ]
    for network in networks:
        found = results[network.name]
        timed = latency[OURS if network.name == LABELS else network.name]
        speed = Quartiles.of([slow / fast for slow, fast in zip(latency[TEACHER], timed, strict=True)])
        rows.append(
            [
                network.about,
                _spread([entry["accuracy"] for entry in found]),
                _spread([entry["retained"] for entry in found]),
                _spread([entry["agreement"] for entry in found]),
                format_cost("flops", network.costs["flops"]),
                format_cost("params", network.costs["params"]),
                f"{Quartiles.of(timed).median:.3f}",
                speed.text(2),
            ]
        )
    headers = ["network", "test accuracy", "of the teacher's", "agreement", "FLOPs", "params", "ms", "speed-up"]
    stated = conditions(run.config.latency.batch, run.config.latency.threads)
    latency_text = f"""*ms*: median latency on {stated.text()};
teacher and students took turns, {ROUNDS} rounds of {run.config.latency.repeats} runs each; *speed-up* over the teacher
within a round. Accuracies: mean over {len(networks[0].students)} seeds (lowest to highest)."""
    return f"{table(headers, rows)}\n\n{latency_text}"


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})"


def _verdicts(networks: list[Network], results: dict[str, Any]) -> str:
    by_name = {network.name: network for network in networks}
    lines = []
    for name in (RANDOM, *SCALED, LABELS):
        difference, error = compare(results[OURS], results[name], results[TEACHER]["count"])
        if abs(difference) <= 2 * error:
            word = "a tie with"
        else:
            word = "better than" if difference > 0 else "worse than"
        lines.append(
            f"- The search's student is **{word} {by_name[name].about}**: {100 * difference:+.2f} points, "
            f"standard error {100 * error:.2f}."
        )
    retained = float(np.mean([entry["retained"] for entry in results[OURS]]))
    best = max((OURS, RANDOM, *SCALED), key=lambda name: np.mean([entry["accuracy"] for entry in results[name]]))
    trainings = len(results[OURS])
    tail = f"""- It keeps {retained:.2%} of the teacher's accuracy on these test images, over {trainings} trainings of
  one found network. The search was run once, so whether another seed of it would keep as much is not known.
- The highest mean is that of: {by_name[best].about}."""
    rule = """A difference within two standard errors is called a tie; the error is of test images (paired) and of
training seeds together."""
    return "\n".join([*lines, tail]) + f"\n\n{rule}"


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], count: int) -> tuple[float, float]:
    """Return the difference of mean accuracies (shares of 1; above 0: ours is better) and its standard error."""

    def correct(found: list[dict[str, Any]]) -> np.ndarray:
        rows = np.ones((len(found), count))
        for row, entry in zip(rows, found):
            row[entry["wrong"]] = 0
        return rows

    mine, other = correct(ours), correct(theirs)
    by_image = mine.mean(axis=0) - other.mean(axis=0)
    variance = float(by_image.var(ddof=1)) / count
    for rows in (mine, other):
        if len(rows) > 1:
            variance += float(rows.mean(axis=1).var(ddof=1)) / len(rows)
    return float(by_image.mean()), math.sqrt(variance)


def _fronts(run: Run, rivals: Rivals) -> str:
    costs = run.config.search.objectives
    reference = {name: limit.high for name, limit in run.budget.limits.items() if limit.high is not None}
    whole = {name: reference.get(name, teacher_costs(run)[name]) for name in costs}
    ours = front_hypervolume(run.records, costs, whole)
    random = front_hypervolume(rivals.random_records(), costs, whole)
    rows = [
        [record.number, f"{record.final_quality:.2%}", *(format_cost(name, record.costs[name]) for name in costs)]
        for record in run.front_records()
    ]
    text = f"""## The front of the search

Validation accuracy after the short training. Normalised hypervolume of all completed candidates: {ours:.4f} for the
search, {random:.4f} for random search of equal training cost."""
    return f"{text}\n\n{table(['trial', 'validation', *costs], rows)}"
