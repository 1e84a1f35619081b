"""The example of the README as a separate program, with model, data and builder in ``__main__``."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import torch
from torch import nn
import nas_distill as nd

y = torch.arange(320) % 4
x = torch.rand(320, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + (y / 4).view(-1, 1, 1, 1)
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.layers.extend([nn.Linear(width, width)] * (depth - 1) + [nn.Linear(width, 4)])
    def forward(self, x):
        return self.layers(x)

def build(width, depth):
    return Net(width, depth)

model = Net(64, 2)
run = nd.search(teacher=model, data=nd.Dataset.from_tensors(x, y, val=0.2), builder=build,
                space={"width": [8, 16, 24], "depth": [1, 2, 3]}, budget={"flops": "50%", "params": "60k"}, trials=4,
                latency={"calibrate": 9, "repeats": 5}, score={"epochs": 1})
print(run.front()[["quality", "flops", "params"]], run.trials()[["latency_ms"]])
student = run.best().distill(epochs=2)
print(student.export("student.onnx")["parity"])
print(run.folder.path, student.folder)
"""

LOAD = """
import sys, warnings
import torch
import nas_distill as nd
folder = sys.argv[1]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    student = nd.load_student(folder)
assert len(told) == 1 and "loaded as a graph" in str(told[0].message), told
with torch.no_grad():
    print(tuple(student(torch.rand(3, 1, 8, 8)).shape))
import nas_distill.export.student
assert not [name for name in sys.modules if name.startswith(("nas_distill.engine", "nas_distill.study.run", "ray"))]
"""


def run_script(folder, text, *arguments):
    file = folder / "script.py"
    file.write_text(text)
    found = subprocess.run(
        [sys.executable, str(file), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found


def test_the_twenty_lines_work_on_workers_and_the_student_loads_elsewhere(tmp_path):
    found = run_script(tmp_path, SCRIPT)
    assert found.stderr == ""
    run, student = found.stdout.splitlines()[-1].split()
    assert run == "runs/search"
    assert "'same_predictions': 1.0" in found.stdout
    assert (tmp_path / "student.onnx").exists()
    weights = load_file(tmp_path / student / "model.safetensors")
    spec = json.loads((tmp_path / student / "architecture.json").read_text())
    assert weights
    assert set(spec["values"]) == {"width", "depth"}
    loaded = run_script(tmp_path, LOAD, student)
    assert loaded.stdout == "(3, 4)\n"
