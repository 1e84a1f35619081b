"""Samplers compared on tables of trained networks: hypervolume after 50, 100 and 200 evaluations.

    python benchmarks/samplers.py FOLDER [--seeds 10] [--tables macro accel] [--samplers known_cost tpe]

FOLDER has ``nas_bench_macro/macro.npz`` and ``accel_nasbench/accel.npz``. Tables whose name begins with ``graph-`` need
``pip install --no-deps nas-bench-graph``. Each row of docs/benchmarks/samplers.csv is one search; those that are there
are not run again, and the page is written from all of them.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import PAGES, parser, publish, table
from optuna.trial import TrialState
from samplers_tables import Problem, Table, accel, graph, macro

from nas_distill.config import SamplerConfig
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives, Scalar
from nas_distill.engine.proposals import Proposals
from nas_distill.engine.samplers import find_sampler

OURS = "known_cost"
TUNED_ON = "macro"
SAMPLERS: dict[str, str] = {
    OURS: OURS,
    "tpe": "tpe",
    "nsga2": "nsga2",
    "evolution": "samplers_peers:Evolution",
    "random": "random",
    "gp": "optuna.samplers:GPSampler",
}
TABLES: dict[str, Callable[[Path], Table]] = {
    "macro": macro,
    "accel": accel,
    "graph-arxiv": lambda folder: graph("arxiv"),
    "graph-cs": lambda folder: graph("cs"),
}
PROBLEMS = {"front, limit": (True, True), "front": (False, True), "best, limit": (True, False)}
EVALUATIONS, STEP = 200, 10
SHOWN = (50, 100, 200)
REPEATS = 20  # proposals in a row with nothing to evaluate, before a random unseen one: as in the search
GAVE_UP = 40  # proposals per evaluation at which a search ends


@dataclass(frozen=True)
class Row:
    """One search: ``curve`` is the hypervolume, as a share of the table's, after every ``STEP`` evaluations."""

    problem: str
    sampler: str
    seed: int
    proposals: int
    seconds: float
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a proposal, in the terms of ``Proposals.tell``."""

    state: TrialState
    values: list[float] | None
    violations: Mapping[str, float]
    costs: Mapping[str, float]
    quality: float | None = None


def search(problem: Problem, sampler: str, seed: int) -> Row:
    """Run one search by a sampler. Repeats and candidates over budget are told as such and are not evaluations."""
    began = time.process_time()
    names = problem.table.cost_names
    pricing = Pricing(lambda architecture: problem.table.look_up(architecture)[1], problem.budget)
    objectives = Objectives(names) if problem.front else Objectives((), Scalar(names[0], 1.0, 0.0))
    made = find_sampler(SamplerConfig(name=SAMPLERS[sampler]), paths=[Path(__file__).parent])
    proposals = Proposals(
        problem.table.space, objectives=objectives, pricing=pricing, sampler=made, seed=seed, trials=EVALUATIONS
    )

    def outcome(architecture: Any) -> Outcome:
        costs = pricing.known(architecture)
        if costs is None:
            return Outcome(TrialState.FAIL, None, {}, {})
        over = problem.budget.violations(costs)
        if over:
            return Outcome(TrialState.PRUNED, objectives.values(0.0, costs), over, costs)
        quality = problem.table.look_up(architecture)[0]
        met = dict.fromkeys(problem.budget.names, 0.0)
        return Outcome(TrialState.COMPLETE, objectives.values(quality, costs), met, costs, quality)

    seen: dict[str, Outcome] = {}
    qualities: list[float] = []
    costs: list[list[float]] = []
    curve: list[float] = []
    unproductive = 0
    while len(qualities) < EVALUATIONS and len(proposals) < GAVE_UP * EVALUATIONS:
        index = len(proposals)
        unseen = proposals.unseen(seen.keys(), 1000) if unproductive >= REPEATS else None
        architecture = (proposals.ask() if unseen is None else proposals.insert(unseen, "random")).architecture
        repeats = architecture.hash in seen
        found = seen.setdefault(architecture.hash, outcome(architecture))
        proposals.note(index, costs=found.costs, scores={} if found.quality is None or repeats else {0: found.quality})
        proposals.tell(index, found.state, found.values, constraints=found.violations, repeats=repeats)
        unproductive += 1
        if found.quality is not None and not repeats:
            unproductive = 0
            qualities.append(found.quality)
            costs.append([found.costs[name] for name in names])
            if len(qualities) % STEP == 0:
                curve.append(problem.covered(qualities, costs))
    return Row(problem.name, sampler, seed, len(proposals), time.process_time() - began, tuple(curve))


def read(path: Path) -> list[Row]:
    """Return the rows so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                line["problem"],
                line["sampler"],
                int(line["seed"]),
                int(line["proposals"]),
                float(line["seconds"]),
                tuple(float(line[f"at_{at}"]) for at in range(STEP, EVALUATIONS + 1, STEP) if line[f"at_{at}"]),
            )
            for line in csv.DictReader(file)
        ]


def append(path: Path, row: Row) -> None:
    """Add a row to the file."""
    header = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        places = range(STEP, EVALUATIONS + 1, STEP)
        if header:
            writer.writerow(["problem", "sampler", "seed", "proposals", "seconds", *(f"at_{at}" for at in places)])
        shown = [f"{value:.5f}" for value in row.curve]
        shown += [""] * (len(places) - len(shown))
        writer.writerow([row.problem, row.sampler, row.seed, row.proposals, f"{row.seconds:.1f}", *shown])


def curves(rows: Sequence[Row], problem: str, sampler: str) -> dict[int, np.ndarray]:
    """Return the whole curves of a sampler by seed."""
    return {
        row.seed: np.array(row.curve)
        for row in rows
        if (row.problem, row.sampler) == (problem, sampler) and len(row.curve) == EVALUATIONS // STEP
    }


def average(found: Mapping[int, np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(list(found.values()), axis=0))


def error_text(values: np.ndarray, *, signed: bool = False) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():{'+' if signed else ''}.3f} ± {error:.3f}"


def at(found: Mapping[int, np.ndarray], evaluations: int) -> np.ndarray:
    return np.array([curve[evaluations // STEP - 1] for curve in found.values()])


def section(rows: Sequence[Row], problem: str) -> str:
    """Return the table of one problem."""
    lines = []
    for sampler in SAMPLERS:
        found = curves(rows, problem, sampler)
        if not found:
            continue
        ran = [row for row in rows if (row.problem, row.sampler) == (problem, sampler) and row.seed in found]
        per = np.mean([1000 * row.seconds / row.proposals for row in ran])
        wasted = np.mean([1 - EVALUATIONS / row.proposals for row in ran])
        lines.append(
            [
                f"`{sampler}`",
                *(error_text(at(found, each)) for each in SHOWN),
                f"{wasted:.0%}",
                f"{per:.0f}",
                len(found),
            ]
        )
    headers = ["sampler", *(f"after {each}" for each in SHOWN), "over budget or repeated", "ms per proposal", "seeds"]
    return f"### {problem}\n\n{table(headers, lines)}"


def summary(rows: Sequence[Row], problems: Sequence[str]) -> str:
    """Return the table that compares ours with the best peer of each problem."""
    lines, behind = [], []
    for problem in problems:
        ours = curves(rows, problem, OURS)
        peers = {name: curves(rows, problem, name) for name in SAMPLERS if name not in (OURS, "gp")}
        peers = {name: found for name, found in peers.items() if found}
        if not ours or not peers:
            continue
        cells = []
        for each in SHOWN:
            best = max(peers, key=lambda name: float(at(peers[name], each).mean()))
            shared = sorted(ours.keys() & peers[best].keys())
            difference = np.array([(ours[seed] - peers[best][seed])[each // STEP - 1] for seed in shared])
            cells.append(f"{error_text(difference, signed=True)} (`{best}`)")
            if difference.mean() < 0:
                behind.append(f"{problem}, after {each} ({error_text(difference, signed=True)}, `{best}`)")
        best = max(peers, key=lambda name: float(average(peers[name])[-1]))
        reached = np.flatnonzero(average(ours) >= average(peers[best])[-1])
        needed = str(STEP * (int(reached[0]) + 1)) if len(reached) else f"more than {EVALUATIONS}"
        lines.append([problem + (" (tuned on)" if problem.startswith(TUNED_ON) else ""), *cells, needed])
    headers = [
        "problem",
        *(f"`{OURS}` minus the best peer after {each}" for each in SHOWN),
        f"evaluations to the best peer's value after {EVALUATIONS}",
    ]
    loses = "; ".join(behind) if behind else "nowhere"
    return f"{table(headers, lines)}\n\nWhere `{OURS}` is behind the best peer: {loses}."


ABOUT = f"""Nothing is trained: quality and costs of an architecture are read from a table. Each search evaluates
{EVALUATIONS} architectures; proposals that repeat, are over budget or cannot be built are told to the sampler as such
and do not count as evaluations. There are no first candidates. *Hypervolume* is that of all evaluated candidates in
quality and log cost, as a share of that of the whole table (higher is better), above the worst tenth of the qualities;
in problems named *best* there is no cost objective, and it is the share of the way from that quality to the best.
*Limit*: the first cost is at most its median in the table. Errors are standard errors over seeds, in the first table of
paired differences.

- `macro`: {(macro.__doc__ or "").splitlines()[0]} Limit and cost objective: FLOPs.
  **The settings of `{OURS}` were chosen on this table.** Of `accel` and `graph-cs` one search each, without rows here,
  was run before the last change of a setting, to try the script; nothing was chosen by them.
- `accel`: {(accel.__doc__ or "").splitlines()[0]}
  Limit and cost objective: FLOPs, which are a linear function of the stages (exact). The quality of architectures that
  were not trained is that of boosted trees fitted to the trained ones. The whole table is represented by 20,000 random
  architectures, so a search may exceed 1.
- `graph-arxiv`, `graph-cs`: {(graph.__doc__ or "").splitlines()[0]}
  Limit and cost objective: parameters.

`tpe`, `nsga2`, `random` and `{OURS}` are those of the registry with their defaults; `evolution` is regularized
evolution with exact costs (`benchmarks/samplers_peers.py`: population 20, tournament 8, never a repeat nor over
budget). Not run, for lack of time: Optuna's GPSampler (about a second per proposal), Syne Tune, `{OURS}` in problems
named *best*, and `accel` without a limit. The rows are from `samplers.py FOLDER --problems "front, limit"`
(10 seeds) and from `--problems front`, which was ended after 3 or 4 seeds; its errors are large."""


def main() -> None:
    made = parser(__doc__)
    made.add_argument("folder", type=Path, help="folder of the tables")
    made.add_argument("--seeds", type=int, default=10)
    made.add_argument("--first-seed", type=int, default=0)
    made.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    made.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    made.add_argument(
        "--samplers", nargs="+", choices=list(SAMPLERS), default=[name for name in SAMPLERS if name != "gp"]
    )
    made.add_argument("--rows", type=Path, default=PAGES / "samplers.csv", help="the file of the rows")
    made.add_argument("--page", action="store_true", help="only write the page, from the rows so far")
    options = made.parse_args()
    if not options.page:
        run(options)
    rows = read(options.rows)
    names = [f"{name}, {kind}" for kind in PROBLEMS for name in TABLES]
    problems = [name for name in names if curves(rows, name, OURS)]
    sections = [section(rows, name) for name in problems]
    parts = [
        ABOUT,
        f"Rows: [samplers.csv]({options.rows.name}).",
        "## In short",
        summary(rows, problems),
        "## Each problem",
    ]
    publish("samplers", "Samplers on tables of trained networks", [*parts, *sections], options)


def run(options: argparse.Namespace) -> None:
    """Run the searches that are missing."""
    done = {(row.problem, row.sampler, row.seed) for row in read(options.rows)}
    for name in options.tables:
        made: Table | None = None
        for kind in options.problems:
            for seed in range(options.first_seed, 1 if options.quick else options.seeds):
                for sampler in options.samplers:
                    if (f"{name}, {kind}", sampler, seed) in done:
                        continue
                    made = made or TABLES[name](options.folder)
                    row = search(Problem(made, *PROBLEMS[kind]), sampler, seed)
                    print(row.problem, sampler, seed, f"{row.curve[-1]:.4f}", f"{row.seconds:.0f} s", file=sys.stderr)
                    if not options.quick:
                        append(options.rows, row)


if __name__ == "__main__":
    main()
