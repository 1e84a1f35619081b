"""MiniLM: relations in the last self-attention layer, in both published versions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.features import exact
from nas_distill.distill.losses.checks import check_attention, check_heads
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers import scores


@loss("minilm", layers="last attention")
class MiniLM(Loss):
    """Relations of queries, of keys and of values among themselves (MiniLMv2; Wang et al., 2020, arXiv:2012.15828).

    Each of the three is split into ``relation_heads`` heads of equal width, so that widths and numbers of heads may
    differ; a relation is ``softmax(x x^T / sqrt(d))``. The loss is KL(teacher || student), summed over keys, averaged
    over batch, heads and queries, and summed over the three. If there are several pairs, only the last is read; auto
    means the last attention of both networks. Name a pair to use another attention of the teacher. Masks are not
    applied. Equal relations give the minimum, 0. The loss has no learnable parts.

    ``relation_heads``: must divide both widths; null: the greatest common divisor of the teacher's heads and the
    student's width (12 for 12 heads and a width of 312). The paper uses more heads than the teacher has, 48 for 12.

    Raises:
        TrainingError: the numbers of tokens differ, ``relation_heads`` does not divide both widths, or a layer is not
            an attention.
    """

    def __init__(self, shapes: Shapes, *, relation_heads: Annotated[int, Field(ge=1)] | None = None) -> None:
        super().__init__(shapes)
        check_attention("minilm", shapes)
        ours, theirs = shapes.features[-1]
        widths = ours[1] * ours[3], theirs[1] * theirs[3]
        self.heads = math.gcd(theirs[1], widths[0]) if relation_heads is None else relation_heads
        if any(width % self.heads for width in widths):
            common = math.gcd(*widths)
            fitting = [str(number) for number in range(1, common + 1) if common % number == 0]
            raise TrainingError(
                f"The loss 'minilm' splits the student's width {widths[0]} and the teacher's {widths[1]} into "
                f"relation_heads, and {self.heads} does not divide both; take one of {', '.join(fitting)}."
            )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over the three relations; features are (3, B, heads, N, d)."""
        ours, theirs = self._relations(student.features[-1]), self._relations(teacher.features[-1])
        return divergence_of_rows(ours, theirs)

    def _relations(self, feature: Tensor) -> Tensor:
        """Return the logs (3, B, relation heads, N, N) of the relations in (3, B, heads, N, d)."""
        joined = exact(feature).transpose(2, 3).flatten(3)
        split = joined.unflatten(3, (self.heads, -1)).transpose(2, 3)
        return log_relations(split, split)


def log_relations(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the log (..., N, N) of ``softmax(rows columns^T / sqrt(d))`` by row; inputs are (..., N, d)."""
    return torch.log_softmax(scores(rows, columns), dim=-1)


def divergence_of_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) of logs (K, B, heads, N, N), a scalar: summed over K and keys, else averaged."""
    rows = student[0].numel() // student.shape[-1]
    return functional.kl_div(student, teacher, reduction="sum", log_target=True) / rows


@loss("minilm_v1", layers="last attention")
class MiniLMV1(Loss):
    """Attention of the last layer and the relation of its values (MiniLM; Wang et al., 2020, arXiv:2002.10957).

    KL(teacher || student) of the attention distributions ``softmax(q k^T / sqrt(d))`` and of the value relations
    ``softmax(v v^T / sqrt(d))``, each summed over keys and averaged over batch, heads and queries; the two are added.
    Head i learns from head i, so both networks need the same number of heads; widths and depths may differ. If there
    are several pairs, only the last is read; auto means the last attention of both networks. Masks are not applied.
    Equal distributions and relations give the minimum, 0. The loss has no learnable parts. ``minilm``, the second
    version, allows different numbers of heads.

    Raises:
        TrainingError: the numbers of heads or tokens differ, or a layer is not an attention.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_attention("minilm_v1", shapes)
        check_heads("minilm_v1", replace(shapes, features=shapes.features[-1:]))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum of both divergences; features are (3, B, heads, N, d)."""
        return divergence_of_rows(_relations(student.features[-1]), _relations(teacher.features[-1]))


def _relations(feature: Tensor) -> Tensor:
    """Return the logs (2, B, heads, N, N) of the attention and the value relation in (3, B, heads, N, d)."""
    queries, keys, values = exact(feature).unbind(0)
    return log_relations(torch.stack([queries, values]), torch.stack([keys, values]))
