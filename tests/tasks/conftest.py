"""A user's own task: grades from 0 to 4, where an error of one grade counts as half correct."""

import pytest

OWN = """
import torch
from nas_distill.tasks.classification import Classification


class Grades(Classification):
    name = "grades"
    quality_name = "graded accuracy"
    output, outputs = "grade", "grades"

    def quality(self, outputs, labels):
        apart = (outputs.argmax(dim=1) - labels).abs()
        return float(((apart == 0) + 0.5 * (apart == 1)).double().mean())

    def constant_quality(self, labels):
        grades = torch.eye(int(labels.max()) + 1)
        return max(self.quality(grade.expand(len(labels), -1), labels) for grade in grades)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_tasks:Grades"
