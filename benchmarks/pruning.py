"""Savings and losses of early stopping: the dominance rule, quality-only halving, and no rule.

On tables of finished trainings, whose candidates are replayed on simulated asynchronous workers::

    python benchmarks/pruning.py --tables FOLDER        # the folder holds nlp_curves, nas_bench_macro, ...

and on one real search in which everything was trained to its end, made here or before (``search.pruning.rule: none``)::

    python benchmarks/pruning.py --search runs/quickstart.yaml --run runs/pruning --trials 48
    python benchmarks/pruning.py --run runs/pruning

Both may be given at once. Training cost is what a rule is charged for; a candidate counts once it was trained to its
end. The hypervolume is that of the candidates that count over that of all candidates.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from common import parser, publish, table
from pruning_run import real_search
from replay import HALVING, NONE, WORKERS, Candidate, Pool, losses, mean_text, replayed

from nas_distill.engine.early_stopping import Dominance, NoRule, QualityHalving, Rule
from nas_distill.utils.seeds import numpy_rng

BUDGETS = (8, 15, 40)  # in full trainings
FIXED = 60
NLP_RUNGS = (2, 6, 18, 50)  # epochs


def main() -> None:
    options = _options()
    parts = []
    if options.tables is not None:
        seeds = 5 if options.quick else options.seeds
        parts += [_tables_text(seeds), *_nlp(options.tables, seeds), *_macro(options.tables, seeds), _LEFT_OUT]
    if options.run is not None:
        parts += real_search(options)
    publish("pruning", "Stopping early", parts, options)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--tables", type=Path, help="folder with nlp_curves and nas_bench_macro, each with its load.py")
    made.add_argument("--seeds", type=int, default=100, help="random orders of a table's candidates")
    made.add_argument("--run", type=Path, help="folder of a run with search.pruning.rule none")
    made.add_argument("--search", type=Path, help="search file to make that run from, if it is not finished yet")
    made.add_argument("--trials", type=int, help="its trials, instead of the search file's")
    made.add_argument("--sampler", default="random", help="its sampler")
    options = made.parse_args()
    if options.tables is None and options.run is None:
        made.error("give --tables, or --run, or both")
    return options


# Tables.

_LEFT_OUT = (
    "Left out: `accel_nasbench`, since it holds one figure of one training a network: there is no earlier report at "
    "which anything could be stopped."
)


def _tables_text(seeds: int) -> str:
    return f"""## Tables

{seeds} random orders of each table's candidates, {WORKERS} simulated asynchronous workers, each taking the next
candidate as it is free. *Equal training cost*: hypervolume of what was trained to its end by the time that the cost
of {", ".join(map(str, BUDGETS))} full trainings was spent (training that was cut short by the budget is spent for
nothing), as a share of the whole table's; mean over the orders ± its standard error. *A fixed set*: {FIXED} random
candidates, all of which are tried; the share of their training saved, of their hypervolume kept, and of their front
(and of its cheapest third) lost. Costs count on a log scale up to the table's largest, quality down to that which nine
tenths of the table reach. Margins are in sd, standard deviations of the quality at the rung."""


def _nlp(folder: Path, seeds: int) -> list[str]:
    loader = _loader(folder / "nlp_curves")
    losses, wall = loader.matrix(loader.load())
    parameters = [record["num_params"] for record in loader.load()]
    best = np.minimum.accumulate(losses, axis=1)
    candidates = [
        Candidate(
            number,
            {"params": float(parameters[number])},
            tuple(-float(best[number, epoch - 1]) for epoch in NLP_RUNGS),
            tuple(float(epoch) for epoch in NLP_RUNGS),
            tuple(float(wall[number, :epoch].sum()) for epoch in NLP_RUNGS),
        )
        for number in range(len(losses))
    ]
    sigma = tuple(_jitter(losses, epoch) for epoch in NLP_RUNGS)
    about = f"""### nlp_curves: validation loss against parameters

{len(candidates)} recurrent cells with complete curves of {NLP_RUNGS[-1]} epochs; rungs after
{", ".join(map(str, NLP_RUNGS))} epochs; quality is the lowest validation loss so far. The table has one seed a cell,
so sd is taken from the curves: the spread of an epoch's loss around the mean of its neighbours', about the rung (median
over the cells), {", ".join(f"{value:.4f}" for value in sigma)} at the rungs."""
    return [about, *_both(Pool(candidates, ("params",)), sigma, seeds)]


def _jitter(losses: np.ndarray, epoch: int) -> float:
    """Return the noise of one epoch's loss: residuals from the mean of both neighbours have 1.5 times its variance."""
    around = losses[:, max(0, epoch - 4) : min(losses.shape[1], epoch + 3)]
    residuals = around[:, 1:-1] - (around[:, :-2] + around[:, 2:]) / 2
    return float(np.median(np.sqrt((residuals**2).mean(axis=1) / 1.5)))


def _macro(folder: Path, seeds: int) -> list[str]:
    tabled = _loader(folder / "nas_bench_macro").load()
    accuracy, flops = tabled["test_acc"], tabled["flops"]
    trainings = accuracy.shape[1]
    shares = tuple((count + 1) / trainings for count in range(trainings))
    candidates = [
        Candidate(
            number,
            {"flops": float(flops[number])},
            tuple(float(accuracy[number, : count + 1].mean()) for count in range(trainings)),
            shares,
            shares,
        )
        for number in range(len(accuracy))
    ]
    spread = float(np.sqrt(accuracy.var(axis=1, ddof=1).mean()))
    sigma = tuple(spread / np.sqrt(count + 1) for count in range(trainings))
    about = f"""### nas_bench_macro: accuracy against FLOPs

{len(candidates):,} networks, with final accuracies under {trainings} seeds and no curves. So the rungs are the seeds: a
candidate is to be trained {trainings} times, its quality is the mean so far, and it may be stopped after the first or
the second training. This is the case in which a short look is as good as a long one but for noise, sd = {spread:.2f}
points a training; at most two thirds can be saved."""
    return [about, *_both(Pool(candidates, ("flops",)), sigma, seeds)]


def _both(pool: Pool, sigma: tuple[float, ...], seeds: int) -> list[str]:
    rules: dict[str, Rule] = {
        NONE: NoRule(),
        HALVING: QualityHalving(3.0),
        **{
            f"dominance, margin {factor} sd": Dominance(pool.costs, tuple(factor * value for value in sigma))
            for factor in (0, 1, 2)
        },
    }
    orders = [numpy_rng(seed, "order").permutation(len(pool.candidates)) for seed in range(seeds)]
    return [_equal_cost(pool, rules, orders), _fixed_set(pool, rules, orders)]


def _equal_cost(pool: Pool, rules: Mapping[str, Rule], orders: Sequence[np.ndarray]) -> str:
    full = max(candidate.work[-1] for candidate in pool.candidates)
    found = {
        name: np.array(
            [
                [
                    pool.hypervolume(replayed(pool, order, rule, budget * full).complete) / pool.whole
                    for budget in BUDGETS
                ]
                for order in orders
            ]
        )
        for name, rule in rules.items()
    }
    rows = []
    for name, shares in found.items():
        gains = shares - found[NONE]
        cells = [f"{mean_text(shares[:, place])} ({gains[:, place].mean():+.3f})" for place in range(len(BUDGETS))]
        rows.append([name, *(cell if name != NONE else cell.partition(" (")[0] for cell in cells)])
    headers = ["rule", *(f"hypervolume at {budget} (gain over none)" for budget in BUDGETS)]
    return table(headers, rows)


def _fixed_set(pool: Pool, rules: Mapping[str, Rule], orders: Sequence[np.ndarray]) -> str:
    rows = []
    for name, rule in rules.items():
        if name == NONE:
            continue
        lost = [losses(pool, replayed(pool, order[:FIXED], rule), order[:FIXED]) for order in orders]
        rows.append([name, *(mean_text(column, percent=True) for column in np.array(lost).T)])
    headers = [
        f"rule, {FIXED} candidates", "training saved", "hypervolume kept", "front lost", "its cheap third lost",
    ]  # fmt: skip
    return table(headers, rows)


def _loader(folder: Path) -> ModuleType:
    """Import a table's own ``load.py``."""
    spec = importlib.util.spec_from_file_location(f"load_{folder.name}", folder / "load.py")
    if spec is None or spec.loader is None or not (folder / "load.py").exists():
        raise SystemExit(f"{folder} holds no table (it has no load.py); give the folder of tables as --tables.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
