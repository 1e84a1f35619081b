"""Read a finished run: the front, one trial, another budget without training.

python examples/read_run.py [RUN]
"""

import sys

import nas_distill as nd

if __name__ == "__main__":
    run = nd.open_run(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
    print(run.front())
    best = run.best()
    print(best, best.architecture)
    print(run.best(budget={"flops": "1.5M"}))
    print(run.report().trust)
