"""``nas-distill teach``: from a teach file to a folder with a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas_distill.api.problem import load_data, search_paths
from nas_distill.config import load_teach_file
from nas_distill.distill.teach import TeachProgress, teach
from nas_distill.tasks import Evaluation


def teach_file(file: Path, *, on_epoch: Callable[[TeachProgress], None]) -> tuple[Path, Evaluation, str]:
    """Train the teacher of a teach file; return its folder, what it is worth, and on which split.

    A relative ``output`` is beside the file. Called again, it goes on where it was stopped.

    Raises:
        NasDistillError: the file, the data or the builder is wrong.
    """
    config = load_teach_file(file)
    paths = search_paths(file)
    data = load_data(config.data, paths, config.seed)
    output = file.parent / config.output
    evaluation = teach(config, data, output, paths=paths, on_epoch=on_epoch)
    return output, evaluation, data.splits[-1]
