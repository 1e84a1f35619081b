"""Cut students from a teacher: they keep its structure and begin with its weights.

python examples/from_teacher.py [RUN]
"""

import sys

import nas_distill as nd

if __name__ == "__main__":
    run = nd.search(
        teacher="fashion-resnet",  # or any nn.Module
        data="fashion-mnist",
        space={"from_teacher": {"depth": "each", "multiple": 4}},
        budget={"flops": ["15%", "20%"]},  # of the teacher's
        trials=6,
        score={"rungs": [0]},  # candidates are judged as they are cut, without training
        final={"epochs": 1, "count": 1},
        folder=sys.argv[1] if len(sys.argv) > 1 else "runs/from_teacher",
    )
    print(run.front())
    print(run.best().student().evaluate())
