"""Tasks, one per file: label checks, quality, losses and evaluation."""

from nas_distill.tasks.registry import find_task, infer_task, read_evaluation, task_names
from nas_distill.tasks.task import Evaluation, Metric, Task

__all__ = ["Evaluation", "Metric", "Task", "find_task", "infer_task", "read_evaluation", "task_names"]
