"""Parity of an exported student with its network."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from nas_distill.costs import find_runtime
from nas_distill.data import Dataset
from nas_distill.export.parity import verify_export
from nas_distill.study import finish


def test_parity_is_checked_on_samples_of_all_classes(monkeypatch, tmp_path):
    y = np.repeat(np.arange(4), 300)
    x = np.repeat(np.eye(4, dtype=np.float32), 300, 0)
    looked_at = []

    def watched(path, student, batches, *, runtime, task):
        looked_at.extend(batches)
        return verify_export(path, student, batches, runtime=runtime, task=task)

    monkeypatch.setattr(finish, "verify_export", watched)
    problem = SimpleNamespace(
        data=Dataset.from_tensors(x, y, val=(x, y)),
        input_shape=(4,),
        teacher=SimpleNamespace(name="teacher"),
        runtime=find_runtime("onnxruntime"),
        config=SimpleNamespace(latency=SimpleNamespace(batch=1, threads=1, repeats=1)),
    )
    result = finish.export_student(problem, nn.Linear(4, 4).eval(), "student", tmp_path / "model.onnx")
    assert result.parity.count == 512
    assert torch.cat(looked_at).sum(0).min() > 80  # each class has 128 of them on average
