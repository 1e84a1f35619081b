"""Which layers the losses for transformers refuse."""

from __future__ import annotations

from nas_distill.common.errors import TrainingError
from nas_distill.distill.losses.loss import Shapes


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
