"""Provenance of a student: its training, its data, and the split that its quality was measured on.

It is stored as ``provenance`` in a student's ``architecture.json``. Code that selects among the students of a run reads
these fields; the names of folders are labels and carry no meaning.
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
"""Kinds whose quality is comparable within a run: distilled, and validated on the run's own data."""


class Provenance(BaseModel):
    """Provenance record of a student.

    Attributes:
        kind: ``final`` (full distillation from the run's teacher), ``labels`` (the same training on labels only),
            ``assisted`` (taught by a larger student of the run), ``reborn`` (taught by its previous generation),
            ``mutual`` (mutual learning beside the teacher), ``updated`` (a student trained further on other data).
        key: name of the student in its run.
        trial: key of the training of its trial.
        teacher: name of the run's teacher; None if it did not teach this student.
        students: keys of the students that taught this one.
        recipe: digest of the training's settings and seed.
        data: fingerprint of the training and validation data; None if unknown.
        data_name: name of the data.
        measure: the metric of ``quality``, e.g. ``accuracy``.
        quality: at most 1; higher is better; None before the training has ended.
        split: the split of the data that ``quality`` was measured on.
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
    """Return the provenance in a student's ``architecture.json``.

    Students of earlier versions have no such record; it is derived from their metadata as far as possible.

    Args:
        spec: the content of the file.
        path: the file, for messages.

    Raises:
        ExportError: the record is invalid, or is missing and cannot be derived from the metadata.
    """
    stored = spec.get("provenance")
    if stored is not None:
        try:
            return Provenance.model_validate(stored)
        except ValidationError as error:
            raise ExportError(f"{path}: provenance: {explain(Provenance, stored, error)}") from error
    return _earlier(spec.get("metadata") or {}, path)


def _earlier(metadata: Mapping[str, Any], path: Path) -> Provenance:
    """Return the provenance of a student of an earlier version, derived from its metadata."""
    key = metadata.get("key")
    quality = metadata.get("validation_accuracy", metadata.get("validation_quality"))
    if not isinstance(key, str) or not isinstance(quality, int | float) or "taught" not in metadata:
        raise ExportError(f"{path} has no provenance, so its student cannot be compared with others; distil it again.")
    former = metadata.get("updated_from")
    kind: StudentKind = "final"
    if former is not None:
        kind = "updated"
    elif "together_with" in metadata:
        kind = "mutual"
    elif not metadata["taught"]:
        kind = "labels"
    elif "-front-" in key:  # earlier versions recorded this in the name only
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
