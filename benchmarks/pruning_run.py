"""The half of the pruning benchmark that looks at a real search in which everything was trained to its end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
from common import table
from replay import HALVING, NONE, Candidate, Pool, losses, mean_text, replayed

from nas_distill.engine.early_stopping import Dominance, NoRule, QualityHalving, Rule
from nas_distill.utils.seeds import numpy_rng

MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02)
REAL_BUDGETS = (0.25, 0.5)


def real_search(options: argparse.Namespace) -> list[str]:
    """Return the page's parts on the run of ``--run``, which is made first where ``--search`` says so."""
    if options.search is not None:
        _search(options)
    from nas_distill.study import open_run

    run = open_run(options.run)
    records = [record for record in run.records if record.trained and record.state != "failed"]
    if any(record.state == "pruned" for record in records):
        raise SystemExit(f"{options.run} was pruned; make a run with search.pruning.rule none (--search FILE does).")
    costs, shares = run.config.search.objectives, run.config.score.rungs
    candidates = [
        Candidate(
            place,
            {name: record.costs[name] for name in costs},
            tuple(record.reports[rung].quality for rung in range(len(shares))),
            tuple(record.reports[rung].step * record.costs["flops"] for rung in range(len(shares))),
            tuple(record.reports[rung].seconds for rung in range(len(shares))),
        )
        for place, record in enumerate(records)
    ]
    pool = Pool(candidates, costs)
    rules: dict[str, Rule] = {
        NONE: NoRule(),
        HALVING: QualityHalving(3.0),
        **{f"dominance, margin {margin:.2%}": Dominance(costs, margin) for margin in MARGINS},
    }
    workers, steps = run.config.search.workers, records[0].reports[len(shares) - 1].step
    own = list(range(len(candidates)))
    orders = [numpy_rng(seed, "order").permutation(len(own)) for seed in range(5 if options.quick else options.seeds)]
    about = f"""## A real search

{len(candidates)} candidates of space {run.problem.space.name} on {run.problem.data.name}, sampler
{run.config.search.sampler.name}, budget {run.config.budget or "none"}; each trained to its end ({steps:,} steps of
{run.config.score.training.batch_size}, rungs at {", ".join(f"{share:.2f}" for share in shares)} of it), quality is
validation accuracy ({len(run.problem.data.val):,} images). {len(pool.front(own))} of them form the front. Afterwards
each rule was replayed over what they had reported, with {workers} workers and each candidate's own pace. Training cost
is optimiser steps times the student's FLOPs; the seconds are as the search took them. The hypervolume is a share of
that of all candidates, costs on a log scale up to the largest, quality down to that which nine tenths reach."""
    return [about, _own_order(pool, rules, own, workers), _shuffled(pool, rules, orders, workers)]


def _own_order(pool: Pool, rules: Mapping[str, Rule], own: list[int], workers: int) -> str:
    seconds = sum(candidate.seconds[-1] for candidate in pool.candidates)
    front = pool.front(own)
    rows = []
    for name, rule in rules.items():
        judged = replayed(pool, own, rule, workers=workers)
        saved, kept, _, _ = losses(pool, judged, own)
        lost = len(front) - sum(place in set(judged.complete) for place in front)
        stopped = len(own) - len(judged.complete)
        best = max(pool.candidates[place].quality[-1] for place in judged.complete)
        rows.append([name, stopped, f"{saved:.1%}", f"{1 - judged.seconds / seconds:.1%}", f"{kept:.2%}",
                     f"{lost} of {len(front)}", f"{best:.2%}"])  # fmt: skip
    headers = ["rule, in the search's own order", "stopped", "training saved", "seconds saved", "hypervolume kept",
               "front lost", "best quality kept"]  # fmt: skip
    return table(headers, rows)


def _shuffled(pool: Pool, rules: Mapping[str, Rule], orders: Sequence[np.ndarray], workers: int) -> str:
    total = sum(candidate.work[-1] for candidate in pool.candidates)
    rows = []
    for name, rule in rules.items():
        lost = np.array([losses(pool, replayed(pool, order, rule, workers=workers), order) for order in orders])
        equal = np.array(
            [
                [
                    pool.hypervolume(replayed(pool, order, rule, share * total, workers).complete) / pool.whole
                    for share in REAL_BUDGETS
                ]
                for order in orders
            ]
        )
        rows.append(
            [name, *(mean_text(column) for column in equal.T), *(mean_text(column, percent=True) for column in lost.T)]
        )
    headers = [
        f"rule, {len(orders)} random orders",
        *(f"hypervolume at {share:.0%} of the cost" for share in REAL_BUDGETS),
        "training saved", "hypervolume kept", "front lost", "its cheap third lost",
    ]  # fmt: skip
    return table(headers, rows)


def _search(options: argparse.Namespace) -> None:
    """Make the run, or continue it: everything trained to its end, and hardly any full distillation."""
    from nas_distill.runs.folder import RunFolder
    from nas_distill.runs.journal import read_metadata
    from nas_distill.study import search

    if RunFolder(options.run).exists and read_metadata(RunFolder(options.run)).finished:
        return
    quick = {"score": {"epochs": 0.2}, "trials": 6, "seeds": 2} if options.quick else {}
    settings = {"trials": options.trials, "sampler": options.sampler, **quick}
    search(
        options.search,
        folder=options.run,
        resume=True,
        pruning={"rule": "none"},
        final={"epochs": 0.1, "count": 1, "baseline": False, "uniform": False},
        latency={"calibrate": 0},
        **settings,
    )
