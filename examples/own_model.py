"""Distil a model of your own, trained on your own data, under a budget of FLOPs.

python examples/own_model.py [RUN]
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import nas_distill as nd

digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def build(width: int, depth: int) -> nn.Module:
    """Make a student: ``depth`` convolutions of ``width`` channels and a linear classifier."""
    layers = []
    for channels in [1] + [width] * (depth - 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


if __name__ == "__main__":
    torch.manual_seed(0)
    teacher = build(width=64, depth=4)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for batch in torch.randperm(1000).repeat(10).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(x[batch]), y[batch]).backward()
        optimizer.step()
    held_out = {"val": (x[1000:1200], y[1000:1200]), "test": (x[1200:], y[1200:])}  # unseen by the teacher
    data = nd.Dataset.from_tensors(x[:1000], y[:1000], **held_out, name="digits")
    space = {"width": [4, 8, 12, 16, 24], "depth": [1, 2, 3]}
    goal = {"budget": {"flops": "5%"}, "trials": 8, "folder": (sys.argv[1:] or ["runs/own_model"])[0]}
    run = nd.search(teacher=teacher, data=data, builder=build, space=space, **goal)
    print(run.front())
    run.student().export(run.folder.path / "student.onnx")
