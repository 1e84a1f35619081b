"""Checks of the layer shapes that losses on features and attention accept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas_distill.distill.features import smaller
from nas_distill.distill.losses.loss import Shapes
from nas_distill.utils.errors import TrainingError

_KINDS = {3: "a map (C, H, W)", 2: "tokens (N, D)", 1: "a vector (D,)"}


def check_kinds(name: str, shapes: Shapes, ranks: Sequence[int], instead: str) -> None:
    """Refuse layers that the loss ``name`` cannot compare.

    Args:
        name: of the loss.
        shapes: those of its layers.
        ranks: of the samples' shapes that the student's layer may have: 3 for maps, 2 for tokens, 1 for vectors.
        instead: what to take for others, an end of a sentence.

    Raises:
        TrainingError: there is no layer, or one of another kind.
    """
    if not shapes.features:
        raise TrainingError(f"The loss '{name}' needs at least one pair of layers, and got none.")
    for student, _ in shapes.features:
        if len(student) not in ranks:
            allowed = " or ".join(_KINDS[rank] for rank in ranks)
            raise TrainingError(
                f"The loss '{name}' compares {allowed} of each sample, and the student's layer gives {tuple(student)}; "
                f"{instead}."
            )


def check_tokens(name: str, shapes: Shapes, instead: str) -> None:
    """Refuse pairs of unequal kinds or, of tokens, unequal numbers; the teacher's features are to be whole.

    Raises:
        TrainingError: such a pair.
    """
    for student, teacher in shapes.features:
        if len(student) != len(teacher) or (len(student) == 2 and student[0] != teacher[0]):
            raise TrainingError(
                f"The loss '{name}' compares place by place, which the student's layer {tuple(student)} and the "
                f"teacher's {tuple(teacher)} do not allow; {instead}."
            )


def check_places(name: str, shapes: Shapes, instead: str) -> None:
    """Refuse features that are all of a single place, of which a loss on where a layer is active learns nothing.

    A pair of one place among others adds 0.

    Args:
        name: of the loss.
        shapes: of its layers: maps (C, H, W), a teacher's maybe reduced to (H, W), or tokens (N, D).
        instead: what to take, an end of a sentence.

    Raises:
        TrainingError: no pair has two places or more.
    """
    if all(_places(student, teacher) == 1 for student, teacher in shapes.features):
        student, teacher = shapes.features[-1]
        raise TrainingError(
            f"The loss '{name}' compares where a layer is active, and the student's layer {tuple(student)} beside the "
            f"teacher's {tuple(teacher)} has a single place, which makes it constant; {instead}."
        )


def _places(student: tuple[int, ...], teacher: tuple[int, ...]) -> int:
    return student[0] if len(student) == 2 else math.prod(smaller(student, teacher))


def check_pairs(name: str, shapes: Shapes) -> None:
    """Raise TrainingError if there is no pair of layers for the loss ``name``."""
    if not shapes.features:
        raise TrainingError(f"The loss '{name}' got no pair of layers; leave 'layers' at auto, or name pairs.")


def check_attention(name: str, shapes: Shapes) -> None:
    """Refuse layers that the loss ``name`` cannot compare.

    Raises:
        TrainingError: there is no pair, one is not of stacked queries, keys and values (3, heads, N, d), or the two of
            a pair have different numbers of tokens.
    """
    check_pairs(name, shapes)
    for pair in shapes.features:
        for shape in pair:
            if len(shape) != 4 or shape[0] != 3:
                raise TrainingError(
                    f"The loss '{name}' compares queries, keys and values (3, heads, N, d), not {tuple(shape)}; name "
                    "attentions as 'path:qkv', or leave 'layers' at auto."
                )
        ours, theirs = pair
        if ours[2] != theirs[2]:
            raise TrainingError(
                f"The loss '{name}' compares tokens with tokens, but the student has {ours[2]} of them and the teacher "
                f"{theirs[2]}; give both the same tokens, or take a loss on logits."
            )


def check_heads(name: str, shapes: Shapes) -> None:
    """Raise TrainingError if a pair of attentions (3, heads, N, d) has different numbers of heads."""
    for ours, theirs in shapes.features:
        if ours[1] != theirs[1]:
            raise TrainingError(
                f"The loss '{name}' compares head with head, but the student has {ours[1]} heads and the teacher "
                f"{theirs[1]}; take 'minilm', which leaves the number free, or give the student {theirs[1]}."
            )
