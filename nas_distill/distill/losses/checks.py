"""Checks of the layer shapes that losses on features and attention accept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas_distill.distill.features import smaller
from nas_distill.distill.losses.loss import Shapes
from nas_distill.utils.errors import TrainingError

_KINDS = {3: "a map (C, H, W)", 2: "tokens (N, D)", 1: "a vector (D,)"}


def check_kinds(name: str, shapes: Shapes, ranks: Sequence[int], instead: str) -> None:
    """Refuse layers of kinds that the loss ``name`` cannot compare.

    Args:
        name: name of the loss.
        shapes: shapes of its layers.
        ranks: dimensions allowed for the student's layers: 3 for maps, 2 for tokens, 1 for vectors.
        instead: advice for other layers, the end of a sentence.

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
    """Refuse pairs of different kinds, or with different numbers of tokens; the teacher's features must be full.

    Raises:
        TrainingError: there is such a pair.
    """
    for student, teacher in shapes.features:
        if len(student) != len(teacher) or (len(student) == 2 and student[0] != teacher[0]):
            raise TrainingError(
                f"The loss '{name}' compares position by position, which the student's layer {tuple(student)} and the "
                f"teacher's {tuple(teacher)} do not allow; {instead}."
            )


def check_positions(name: str, shapes: Shapes, instead: str) -> None:
    """Refuse layers that all have a single position, for which a loss on spatial activity is constant.

    If other pairs have more, a pair with a single position only adds 0.

    Args:
        name: name of the loss.
        shapes: shapes of its layers: maps (C, H, W), possibly reduced to (H, W) for the teacher, or tokens (N, D).
        instead: advice, the end of a sentence.

    Raises:
        TrainingError: no pair has at least two positions.
    """
    if all(_positions(student, teacher) == 1 for student, teacher in shapes.features):
        student, teacher = shapes.features[-1]
        raise TrainingError(
            f"The loss '{name}' compares where a layer is active, and the student's layer {tuple(student)} beside the "
            f"teacher's {tuple(teacher)} has a single position, so the loss is constant; {instead}."
        )


def _positions(student: tuple[int, ...], teacher: tuple[int, ...]) -> int:
    return student[0] if len(student) == 2 else math.prod(smaller(student, teacher))


def check_pairs(name: str, shapes: Shapes) -> None:
    """Raise TrainingError if there is no pair of layers for the loss ``name``."""
    if not shapes.features:
        raise TrainingError(f"The loss '{name}' got no pair of layers; leave 'layers' at auto, or name pairs.")


def check_attention(name: str, shapes: Shapes) -> None:
    """Refuse layers that the loss ``name`` on attention cannot compare.

    Raises:
        TrainingError: there is no pair, a layer is not stacked queries, keys and values (3, heads, N, d), or the
            numbers of tokens in a pair differ.
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
