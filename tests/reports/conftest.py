"""Synthetic run: log-uniform costs, quality that rises with cost, and dominance stopping."""

import numpy as np
import pytest

from nas_distill.costs.budget import Limit
from nas_distill.reports.model import ExportResult, FinalistResult, FinalReport, ModelResult, Savings
from nas_distill.reports.trust import rank_trust
from nas_distill.runs.records import Rung, Stop, TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.tasks.classification import ClassificationEvaluation as Evaluation

USAGE = """\
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("{path}")
logits = session.run(["logits"], {"input": np.zeros((1, 1, 28, 28), np.float32)})[0]"""
SHARES = (1 / 9, 1 / 3, 1.0)


def make_record(number, state="complete", *, flops=1e6, params=None, qualities=(0.8,), **more):
    reports = {rung: Rung(q, 100 * (rung + 1), 4.0 * SHARES[rung], SHARES[rung]) for rung, q in enumerate(qualities)}
    values = more.pop("values", {"width": 8 * (number + 1)})
    fields = {
        "number": number,
        "index": number,
        "key": f"t{number:05d}",
        "state": state,
        "architecture": Architecture(values),
        "origin": "sampler",
        "costs": {"flops": flops, "params": flops / 25 if params is None else params},
        "reports": {} if state in ("over_budget", "duplicate") else reports,
        "violations": {},
        "stop": None,
        "cause": None,
        "duplicate_of": None,
        "retry_of": None,
        "values": None,
        "params": values,
    }
    return TrialRecord(**{**fields, **more})


def make_run(trials=60, *, seed=0, limit=2e6):
    rng = np.random.default_rng(seed)
    records = []
    for number in range(trials):
        depth = int(rng.integers(1, 4))
        values = {
            "stem": int(rng.choice([8, 16, 24])),
            "depth": depth,
            "kernel": int(rng.choice([3, 5])),
            "se": bool(rng.integers(2)),
            "act": str(rng.choice(["relu", "silu"])),
            **({"extra": int(rng.choice([2, 4, 6]))} if depth > 1 else {}),
        }
        flops = 5e4 * values["stem"] / 8 * 1.8**depth * (values["kernel"] / 3) ** 2 * np.exp(rng.normal(0, 0.7))
        params = flops / 25 * np.exp(rng.normal(0, 0.5))
        if flops > limit:
            excess = {"flops": flops / limit - 1}
            records.append(
                make_record(number, "over_budget", flops=flops, params=params, values=values, violations=excess)
            )
            continue
        level = 0.935 - 0.09 * (flops / 5e4) ** -0.45 + 0.008 * values["se"] - 0.006 * (values["act"] == "relu")
        full = level + rng.normal(0, 0.006)
        start = 0.11 + 0.05 * np.log10(flops / 1e4) / 2
        qualities = [full - start + rng.normal(0, 0.012), full - start / 3.5 + rng.normal(0, 0.007), full]
        state, stop = "complete", None
        for rung in range(2):
            others = [r for r in records if rung in r.rungs and r.costs["flops"] <= flops]
            best = max(others, key=lambda r: r.rungs[rung], default=None)
            if best is not None and best.rungs[rung] > qualities[rung] + 0.005:
                state = "pruned"
                stop = Stop(
                    rung, qualities[rung], best.number, best.rungs[rung], 0.005, f"trial {best.number} costs no more"
                )
                qualities = qualities[: rung + 1]
                break
        if number == 17:
            state, stop, qualities = "failed", None, qualities[:1]
        records.append(
            make_record(
                number,
                state,
                flops=flops,
                params=params,
                qualities=qualities,
                values=values,
                stop=stop,
                cause="its loss became NaN" if state == "failed" else None,
            )
        )
    return records


@pytest.fixture(scope="session")
def run():
    return make_run()


@pytest.fixture(scope="session")
def record():
    return make_record


def make_report(run, *, notes=("A note [with] brackets.",), conditions="ONNX Runtime 1.32.0, batch 1, 1 thread, a CPU"):
    """Return a complete final report of a search over ``run``."""
    limits = {"flops": Limit(high=2e6), "latency_ms": Limit(high=0.5)}
    best = sorted((r for r in run if r.state == "complete"), key=lambda r: -r.final_quality)[:3]
    gains = (0.009, 0.006, 0.004)
    finalists = tuple(
        FinalistResult(r.number, r.costs, r.final_quality, r.final_quality + gain, chosen=place == 0)
        for place, (r, gain) in enumerate(zip(best, gains))
    )
    costs = {**best[0].costs, "latency_ms": 0.41}
    return FinalReport(
        run="runs/quickstart",
        teacher=ModelResult(
            "teacher",
            Evaluation(0.94, 0.2011, 0.021, None, None, 4000),
            costs={"flops": 2.1e7, "params": 6e5, "latency_ms": 3.2},
            latency_p50_ms=3.2,
            latency_p95_ms=3.4,
        ),
        student=ModelResult(
            "student",
            Evaluation(0.9259, 0.2301, 0.015, 0.951, 0.985, 4000),
            validation=finalists[0].full,
            costs=costs,
            latency_p50_ms=0.4,
            latency_p95_ms=0.44,
        ),
        trial=best[0].number,
        architecture=best[0].architecture.hash,
        values=best[0].architecture.to_dict(),
        baseline=ModelResult(
            "hard labels", Evaluation(0.9, 0.2401, 0.018, 0.939, 0.957, 4000), validation=0.9, costs=costs
        ),
        finalists=finalists,
        limits=limits,
        savings=Savings(16, 22, 1, 31, 4, 240.0, 160.0, 8.0, 190.0, 330.0),
        trust=rank_trust(finalists),
        exports=(
            ExportResult(
                "runs/quickstart/students/t7/model.onnx", 245760, 2.9e-6, 0.998, 512, 12.0, "ONNX Runtime", USAGE
            ),
        ),
        conditions=conditions,
        notes=notes,
    )


@pytest.fixture(scope="session")
def final(run):
    return make_report(run)
