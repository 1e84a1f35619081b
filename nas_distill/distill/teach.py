"""Training of a teacher on labels only, with the training loop of the students."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_distill.config import TeachFile, dump_yaml
from nas_distill.data import Dataset
from nas_distill.distill.distiller import Distiller
from nas_distill.evaluate.predict import predict_logits
from nas_distill.tasks import Evaluation, Task, find_task
from nas_distill.teacher.teacher import DESCRIPTION, WEIGHTS, build_module, builder_keywords
from nas_distill.teacher.weights import save_weights
from nas_distill.utils.errors import TeacherError
from nas_distill.utils.files import record_ownership, write_json, write_text
from nas_distill.utils.modules import resolve_device, torch_threads
from nas_distill.utils.references import load_reference
from nas_distill.utils.seeds import seeded_torch


@dataclass(frozen=True)
class TeachProgress:
    """Progress of a teacher's training: ``epoch`` of ``epochs``, validation ``quality`` (at most 1), ``seconds``."""

    epoch: int
    epochs: int
    quality: float
    seconds: float


def teach(
    config: TeachFile,
    data: Dataset,
    output: Path,
    *,
    paths: Sequence[Path] = (),
    on_epoch: Callable[[TeachProgress], None] = lambda progress: None,
) -> Evaluation:
    """Train a teacher and write its folder: weights, description and card.

    A checkpoint is saved after each epoch, and another call resumes from it. The averaged weights after the last epoch
    are the teacher; no epoch is selected by its quality. The test split, if any, is evaluated once, at the end.

    Returns:
        The evaluation on test data (on validation data if there is no test split).

    Raises:
        TeacherError: the builder fails, or ``output`` contains a finished teacher.
        TrainingError: the loss became NaN or infinite, or the checkpoint in ``output`` belongs to another training.
    """
    if (output / DESCRIPTION).exists():
        raise TeacherError(
            f"{output} already contains a finished teacher; choose another 'output', or delete it to train again."
        )
    with torch_threads(config.threads):
        return _teach(config, data, output, paths, on_epoch)


def _teach(
    config: TeachFile, data: Dataset, output: Path, paths: Sequence[Path], on_epoch: Callable[[TeachProgress], None]
) -> Evaluation:
    with seeded_torch(config.seed, "init"):
        model = build_module(config.builder, config.arguments, data, paths)
    device = resolve_device(config.device)
    distiller = Distiller(model, data, config.training, signal=None, seed=config.seed, device=device)
    checkpoint = output / "checkpoint"
    for quality in distiller.by_epoch(checkpoint):
        on_epoch(TeachProgress(distiller.epoch, distiller.total_epochs, quality, distiller.seconds))
    student = distiller.student()
    split = data.splits[-1]
    logits = predict_logits(student, data.inputs(split))
    evaluation = find_task(data.task).evaluate(logits, data.labels(split))
    save_weights(student, output / WEIGHTS)
    builder = load_reference(config.builder, what="teacher builder", paths=paths)
    description = {
        "builder": config.builder,
        "arguments": builder_keywords(builder, config.arguments, data),
        "input_shape": list(data.input_shape),
        "num_classes": data.num_classes,
        "classes": data.classes,
        "data": data.name,
        "normalisation": data.normalisation(),
        "split": split,
        "quality": evaluation.quality,
        "validation_quality": distiller.quality(),
        "seconds": round(distiller.seconds, 1),
        "torch": torch.__version__,
    }
    write_text(output / "card.md", _card(config, data, split, evaluation, distiller))
    write_json(output / DESCRIPTION, description)  # written last: it marks the teacher as finished
    record_ownership(output, (output / DESCRIPTION).read_bytes())
    for path in checkpoint.glob("*"):
        path.unlink()
    checkpoint.rmdir()
    return evaluation


def _extra_rows(evaluation: Evaluation, task: Task, split: str) -> str:
    """Return the table rows of figures beside quality that need no other model."""
    rows = [
        (figure, value)
        for figure in task.metrics[1:]
        if (value := getattr(evaluation, figure.field)) is not None and figure.field != "retained"
    ]
    return "".join(
        f"| {figure.title} ({split}) | {f'{value:.2%}' if figure.form == 'percent' else format(value, figure.form)} |\n"
        for figure, value in rows
    )


def _card(config: TeachFile, data: Dataset, split: str, evaluation: Evaluation, distiller: Distiller) -> str:
    parameters = sum(weight.numel() for weight in distiller.model.parameters())
    task = find_task(data.task)
    quality = task.quality_name
    return f"""# Teacher for {data.name}

Trained by `nas-distill teach` on labels only, by the same loop that distils students. No epoch was chosen by its
result: these are the averaged weights at the end.

| | |
|---|---|
| {quality} ({split}, {evaluation.count:,} samples) | {evaluation.quality:.2%} |
| {quality} (val, {len(data.val):,} samples, never trained on) | {distiller.quality():.2%} |
{_extra_rows(evaluation, task, split)}| training samples | {len(data.train):,} |
| parameters | {parameters:,} |
| builder | `{config.builder}` |
| seed | {config.seed} |
| trained for | {distiller.seconds / 60:.0f} minutes, {config.threads} threads, {platform.machine()} |
| torch | {torch.__version__} |

## Recipe

```yaml
{dump_yaml(config)}```
"""
