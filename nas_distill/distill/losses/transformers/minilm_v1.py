"""MiniLM as first published: the last attention's distributions, and the relation of its values."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nas_distill.distill.losses.features.tensors import exact
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.distill.losses.transformers.minilm import divergence_of_rows, log_relations
from nas_distill.distill.losses.transformers.shapes import check_attention, check_heads


@loss("minilm_v1", layers="last attention")
class MiniLMV1(Loss):
    """Attention of the last layer and the relation of its values (MiniLM; Wang et al., 2020, arXiv:2002.10957).

    KL(teacher || student) of the attention distributions ``softmax(q k^T / sqrt(d))`` and of the value relations
    ``softmax(v v^T / sqrt(d))``, each summed over keys and averaged over batch, heads and queries; the two are added.
    Head i learns from head i, so both networks need equally many; widths are free, and so is depth. Of several pairs
    the last alone is read: auto means the last attention of both, and no other is tapped. Masks are not applied. Equal
    distributions and relations give the minimum, 0; it learns nothing itself. ``minilm`` is the second version, of
    which heads are free.

    Raises:
        TrainingError: the numbers of heads or of tokens differ, or a layer is no attention.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_attention("minilm_v1", shapes)
        check_heads("minilm_v1", replace(shapes, features=shapes.features[-1:]))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum of both divergences; features are (3, B, heads, N, d)."""
        return divergence_of_rows(_relations(student.features[-1]), _relations(teacher.features[-1]))


def _relations(feature: Tensor) -> Tensor:
    """Return the logs of attention and of value relation, (2, B, heads, N, N), of (3, B, heads, N, d)."""
    queries, keys, values = exact(feature).unbind(0)
    return log_relations(torch.stack([queries, values]), torch.stack([keys, values]))
