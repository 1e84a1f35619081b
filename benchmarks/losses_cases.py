"""Cases of benchmarks/losses.py: losses, strategies, the one student, and the networks that teach beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas_distill.config import CurriculumConfig, TermConfig, TrainingConfig
from nas_distill.spaces import SearchSpace

KD, LABELS = "kd", "labels"
STUDENT, NARROW, INVERTED, ASSISTANT = "student", "narrow", "inverted", "assistant"
RESNET, MBCONV = "nas_distill.models.resnet:build", "nas_distill.models.mbconv:build"
# name -> builder and its arguments. All but the student teach, each taught (or not) before as losses.py says.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    STUDENT: (
        RESNET,
        {
            "stem": 16,
            "stem_stride": 2,
            "stages": [{"depth": 1, "width": 16, "block": "bottleneck"}, *({"depth": 1, "width": w} for w in (24, 32))],
        },
    ),
    ASSISTANT: (RESNET, {"stem": 24, "stem_stride": 2, "stages": [{"depth": 1, "width": w} for w in (24, 32, 64)]}),
    NARROW: (RESNET, {"stem": 16, "stages": [{"depth": 1, "width": w} for w in (16, 32, 64)]}),
    INVERTED: (
        MBCONV,
        {
            "stem": 16,
            "stem_stride": 2,
            "head": 96,
            "stages": [
                {"depth": 1, "width": 16, "expansion": 2},
                {"depth": 2, "width": 24, "se": True},
                {"depth": 2, "width": 48, "se": True},
            ],
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """One way of teaching the student by the shipped teacher."""

    name: str
    terms: tuple[dict[str, Any], ...] = ()
    about: str = ""
    taught: bool = field(default=True)

    @property
    def loss(self) -> tuple[TermConfig, ...]:
        return tuple(TermConfig.model_validate(term) for term in self.terms)


@dataclass(frozen=True)
class Strategy:
    """One way of teaching by plain kd.

    ``others`` teach beside the shipped teacher, mixed ``by``, or ``via`` in its place; ``peers`` are trained side by
    side with the student, and teach it beside the shipped teacher; ``curriculum`` chooses samples.
    """

    name: str
    about: str
    others: tuple[str, ...] = ()
    by: Any = "mean"
    via: str | None = None
    peers: tuple[str, ...] = ()
    curriculum: CurriculumConfig | None = None


_LABELS_TERM = {"name": "cross_entropy", "weight": 0.1}
TEMPERATURE = 4.0
_KD_TERM = {"name": "kd", "weight": 0.9, "temperature": TEMPERATURE}


def _alone(name: str, **options: Any) -> tuple[dict[str, Any], ...]:
    return (_LABELS_TERM, {"name": name, **options})


def _beside(name: str) -> tuple[dict[str, Any], ...]:
    return (_LABELS_TERM, _KD_TERM, {"name": name})


AUXILIARY = ("rotation", "masked_reconstruction")
CASES = (
    Case(KD, (_LABELS_TERM, _KD_TERM)),
    Case(LABELS, ({"name": "cross_entropy", "weight": 1.0},), "no teacher", taught=False),
    Case("lskd", _alone("lskd")),
    Case("dkd", _alone("dkd", warmup=0.08), "warmup 0.08"),
    Case("dist", _alone("dist")),
    Case("kd+dist", _beside("dist")),
    Case("soft_cross_entropy", _alone("soft_cross_entropy")),
    Case("jsd", _alone("jsd")),
    Case("mse", _alone("mse")),
    Case("kd-correct", (_LABELS_TERM, {**_KD_TERM, "correct": True}), "`correct: true`"),
    Case("kd-adaptive", (_LABELS_TERM, {**_KD_TERM, "adaptive": "similarity"}), "`adaptive: similarity`"),
    *(Case(f"kd+{name}", _beside(name)) for name in ("at", "rkd", "pkt", "crd")),
    *(Case(f"kd+{name}", _beside(name)) for name in ("hint", "sp", "vid", "nst", "reviewkd")),
    *(Case(f"kd+{name}", _beside(name)) for name in AUXILIARY),
)
_TEAMS = {"two": (NARROW,), "three": (NARROW, INVERTED)}
STRATEGIES = (
    *(
        Strategy(f"{count}-{by}", f"{count} teachers, weighted by {by}", others, by)
        for count, others in _TEAMS.items()
        for by in ("mean", "entropy", "confidence")
    ),
    Strategy("assistant", "the teacher's own student of about 4 M FLOPs teaches", via=ASSISTANT),
    Strategy("born-again", "the student's kd result of another seed teaches", via=STUDENT),
    Strategy("mutual-two", "one peer and the teacher teach", peers=(ASSISTANT,)),
    Strategy("mutual-three", "two peers and the teacher teach", peers=(ASSISTANT, INVERTED)),
    Strategy("curriculum-entropy", "easy samples first, by the teacher's entropy", curriculum=CurriculumConfig()),
    Strategy(
        "curriculum-loss",
        "easy samples first, by the student's loss",
        curriculum=CurriculumConfig(by="student_loss"),
    ),
)


def training(case: Case, epochs: float, curriculum: CurriculumConfig | None = None) -> TrainingConfig:
    """Return the training of a case: all but its loss, and a curriculum, is the same for each."""
    return TrainingConfig(epochs=epochs, loss=case.loss, curriculum=curriculum)


def space_of(name: str) -> SearchSpace:
    """Return a space that holds only one of NETWORKS."""
    builder, arguments = NETWORKS[name]

    def fixed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fixed(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return {"each": [fixed(entry) for entry in value]}
        return [value]

    return SearchSpace.from_dict({"name": name, "builder": builder, "parameters": fixed(arguments)})
