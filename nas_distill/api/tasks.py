"""What a search file must be for data that are no classification."""

from __future__ import annotations

from nas_distill.common.errors import ConfigError
from nas_distill.config import FromTeacherConfig, SearchFile
from nas_distill.tasks import find_task


def check_task(config: SearchFile, task: str, cutting: FromTeacherConfig | None) -> None:
    """Refuse what knows classes alone, for data of another task, before anything is built.

    Args:
        config: the search file.
        task: of its data.
        cutting: how students are cut from the teacher, where they are.

    Raises:
        ConfigError: a setting needs classes; names it, and what to take instead.
    """
    kind = find_task(task)
    if not kind.shares and cutting is not None and cutting.depth == "redundancy":
        raise ConfigError(
            f"space.from_teacher.depth: 'redundancy' compares classes' probabilities, and the data are of {task}; take "
            "'position' or 'each'."
        )
    for name, training in (("score", config.score.training), ("final", config.final.training)):
        if not kind.has_entropy and training.curriculum is not None and training.curriculum.by == "teacher_entropy":
            raise ConfigError(
                f"{name}.curriculum.by: a {task}'s teacher has no entropy to order samples by; take 'student_loss'."
            )
