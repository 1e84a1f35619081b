"""Accuracy of latency prediction: the calibrated model against linear fits to FLOPs and to parameters.

Random networks of the shipped spaces are timed on ONNX Runtime; each predictor is fitted to all but one of them and
asked for that one, in turn, and once to thirty of them (what a search calibrates with) and asked for the others. All
fit the same way: non-negative least squares of the relative error. Prints a table in Markdown.

    python benchmarks/latency_model.py [--count 60] [--repeats 50] [--threads 1] [--batch 1] > docs/benchmarks/...
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch

from nas_distill.costs import LatencyModel, LatencySample, conditions, count, time_modules
from nas_distill.costs.latency import FEATURES, features, leave_one_out, solve
from nas_distill.costs.tracing import trace
from nas_distill.spaces import NetworkBuilder
from nas_distill.spaces.catalog import load_space

SHAPE = (1, 28, 28)
CALIBRATED = 30
SPLITS = 20


@dataclass
class Network:
    family: str
    features: dict[str, float]
    flops: float
    params: float
    ms: float
    again_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = [
        entry
        for family in ("mbconv", "resnet")
        for entry in timed(family, options.count, options.repeats, options.threads, options.batch)
    ]
    print("# Predicted latency\n")
    stated = conditions(options.batch, options.threads)
    print(f"`python benchmarks/latency_model.py`: {stated.text()}; input {SHAPE}.\n")
    print(
        f"{options.count} random networks of each family, {options.repeats} runs each. Errors are |predicted / "
        "measured - 1|; *left out*: each network predicted from all others; *30 of them*: mean over "
        f"{SPLITS} random choices of {CALIBRATED} to calibrate on, the others predicted.\n"
    )
    print("| family | ms | timed twice, median (95 %) | predictor | left out: median (95 %) | Spearman | 30 of them |")
    print("|---|---|---|---|---|---|---|")
    for family in ("mbconv", "resnet", "both"):
        chosen = [entry for entry in networks if family in (entry.family, "both")]
        times = np.array([entry.ms for entry in chosen])
        repeat = np.abs(np.array([entry.again_ms for entry in chosen]) / times - 1)
        for name, table in tables(chosen).items():
            error = leave_one_out(table, times)
            fewer = from_thirty(table, times)
            print(
                f"| {family} | {times.min():.2f} to {times.max():.2f} "
                f"| {np.median(repeat):.1%} ({np.quantile(repeat, 0.95):.1%}) | {name} "
                f"| {error.median:.1%} ({error.p95:.1%}) | {error.spearman:.3f} | {fewer[0]:.1%} ({fewer[1]:.1%}) |"
            )
    model = LatencyModel.fit([(entry.features, entry.ms) for entry in networks], stated)
    print("\nWhat the calibration on both families says a unit of each feature costs, where it costs anything:\n")
    print("| feature | ns |\n|---|---|")
    for name, value in model.coefficients.items():
        if value > 0:
            print(f"| {name} | {value * 1e6:.3g} |")


def timed(family: str, wanted: int, repeats: int, threads: int, batch: int) -> list[Network]:
    space = load_space(family)
    rng = np.random.default_rng(0)
    builder = NetworkBuilder(space, SHAPE, 10)
    models = [builder.build(space.sample(rng)) for _ in range(wanted)]
    first, second = (
        [
            sample.p50_ms
            for sample in time_modules(models, SHAPE, batch=batch, threads=threads, repeats=repeats)
            if isinstance(sample, LatencySample)
        ]
        for _ in range(2)
    )
    found = []
    for model, ms, again in zip(models, first, second, strict=True):
        costs = count(model, SHAPE, ["flops", "params"])
        found.append(Network(family, features(trace(model, SHAPE), batch), costs["flops"], costs["params"], ms, again))
    return found


def tables(networks: list[Network]) -> dict[str, np.ndarray]:
    ones = np.ones(len(networks))
    return {
        "calibrated model": np.array([[entry.features[name] for name in FEATURES] for entry in networks]),
        "a + b * flops": np.column_stack([ones, [entry.flops for entry in networks]]),
        "a + b * params": np.column_stack([ones, [entry.params for entry in networks]]),
    }


def from_thirty(table: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    medians, tails = [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(times))
        known, new = order[:CALIBRATED], order[CALIBRATED:]
        errors = np.abs(table[new] @ solve(table[known], times[known]) / times[new] - 1)
        medians.append(np.median(errors))
        tails.append(np.quantile(errors, 0.95))
    return float(np.mean(medians)), float(np.mean(tails))


if __name__ == "__main__":
    main()
