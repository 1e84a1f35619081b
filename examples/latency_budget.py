"""Search under a budget in milliseconds, measured on ONNX Runtime on this machine.

python examples/latency_budget.py [RUN]
"""

import sys

import nas_distill as nd

if __name__ == "__main__":
    run = nd.search(
        teacher="fashion-resnet",
        data="fashion-mnist",
        space="resnet",
        budget={"latency_ms": "25%"},  # of the teacher's; "0.5ms" is an amount
        costs=["latency_ms"],
        latency={"batch": 1, "threads": 1, "calibrate": 12},
        trials=6,
        score={"epochs": 1},
        final={"epochs": 1, "count": 2},
        folder=sys.argv[1] if len(sys.argv) > 1 else "runs/latency_budget",
    )
    print(run.front())
    print(run.report().student.latency_p50_ms, "ms, measured on the exported file")
