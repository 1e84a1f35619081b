"""The teacher's signal as a search file wants it."""

from __future__ import annotations

from pathlib import Path

from nas_distill.api.inputs import Inputs
from nas_distill.api.observer import Observer
from nas_distill.run.folder import RunFolder
from nas_distill.teacher import LiveSignal, TeacherSignal, TeacherStore


def store_root(inputs: Inputs, folder: RunFolder) -> Path:
    """Return the folder of teacher stores: the search file's, else one that the runs side by side share."""
    given = inputs.config.teacher.store
    return folder.path.parent / ".teacher-store" if given is None else inputs.base / Path(given).expanduser()


def teacher_signal(inputs: Inputs, folder: RunFolder, observer: Observer) -> TeacherSignal:
    """Return the teacher's signal as the search file wants it, the store built where it is not there."""
    if inputs.config.teacher.signal == "live":
        return LiveSignal(inputs.teacher)
    return TeacherStore.build(
        store_root(inputs, folder),
        inputs.teacher,
        inputs.data,
        on_progress=lambda done: observer.step(done.done, done.total),
    )
