"""Provenance of a student: how it was trained, on which data, and what its quality was measured on.

It is the ``provenance`` of a student's ``architecture.json``. Whoever chooses among the students of a run reads these
fields; the names of folders are labels and carry no meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_distill.utils.errors import ExportError
from nas_distill.utils.validation import explain

StudentKind = Literal["final", "labels", "assisted", "reborn", "mutual", "updated"]
DISTILLED: tuple[StudentKind, ...] = ("final", "assisted", "reborn", "mutual")
"""Kinds whose quality compares within a run: taught, and validated on the run's own data."""


class Provenance(BaseModel):
    """How a student came to be.

    Attributes:
        kind: ``final`` (full distillation from the run's teacher), ``labels`` (the same training on labels only),
            ``assisted`` (taught by a larger student of the run), ``reborn`` (taught by its former self), ``mutual``
            (students teaching each other beside the teacher), ``updated`` (a student trained further on other data).
        key: the student's name in its run.
        trial: key of its trial's training.
        teacher: name of the run's teacher, if that taught it.
        students: keys of the students that taught it.
        recipe: digest of the training's settings and seed.
        data: fingerprint of the training and validation data; None where it is not known.
        data_name: name of that data.
        measure: what ``quality`` is, e.g. ``accuracy``.
        quality: at most 1; higher is better; None before the training has ended.
        split: the split of that data which ``quality`` was measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: StudentKind
    key: str
    trial: str
    teacher: str | None = None
    students: tuple[str, ...] = ()
    recipe: str = ""
    data: str | None = None
    data_name: str | None = None
    measure: str = "accuracy"
    quality: float | None = Field(default=None, allow_inf_nan=False)
    split: str = "val"


def read_provenance(spec: Mapping[str, Any], path: Path) -> Provenance:
    """Return the provenance that a student's ``architecture.json`` holds.

    Students of earlier versions have none; theirs is put together from their metadata, as far as that tells it.

    Args:
        spec: the file's content.
        path: the file, for messages.

    Raises:
        ExportError: it is invalid, or neither it nor the metadata tell how the student was trained.
    """
    stored = spec.get("provenance")
    if stored is not None:
        try:
            return Provenance.model_validate(stored)
        except ValidationError as error:
            raise ExportError(f"{path}: provenance: {explain(Provenance, stored, error)}") from error
    return _earlier(spec.get("metadata") or {}, path)


def _earlier(metadata: Mapping[str, Any], path: Path) -> Provenance:
    """Return the provenance of a student that was written before there were such records."""
    key = metadata.get("key")
    quality = metadata.get("validation_accuracy", metadata.get("validation_quality"))
    if not isinstance(key, str) or not isinstance(quality, int | float) or "taught" not in metadata:
        raise ExportError(
            f"{path} does not tell how its student was trained, so it cannot be compared with others; distil it again."
        )
    former = metadata.get("updated_from")
    kind: StudentKind = "final"
    if former is not None:
        kind = "updated"
    elif "together_with" in metadata:
        kind = "mutual"
    elif not metadata["taught"]:
        kind = "labels"
    elif "-front-" in key:  # in those days only the name told
        kind = "assisted"
    elif "-self-" in key:
        kind = "reborn"
    return Provenance(
        kind=kind,
        key=key,
        trial=key.partition("-")[0],
        students=() if former is None else (str(former),),
        data_name=metadata.get("data"),
        measure="accuracy" if "validation_accuracy" in metadata else "quality",
        quality=quality,
    )
