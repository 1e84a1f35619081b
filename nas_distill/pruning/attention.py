"""Multi-head attention after pruning: with fewer heads or narrower tokens than torch's own class allows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.utils.errors import SpaceError
from nas_distill.utils.layers import qkv, scores


class NarrowedAttention(nn.MultiheadAttention):
    """Multi-head attention whose number of heads times their width need not equal the width of the tokens.

    It has the calling convention and the weight names of torch's attention, and is a subclass, so that taps and encoder
    layers recognise it. Torch's fused encoder layer is not used with it.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # the parent's constructor would make weights of the usual shapes
        self.embed_dim = self.kdim = self.vdim = embed_dim
        self.num_heads, self.head_dim = num_heads, head_dim
        self.dropout, self.batch_first = dropout, batch_first
        self._qkv_same_embed_dim = False  # disables torch's fused encoder layer
        self.bias_k = self.bias_v = None
        self.add_zero_attn = False
        inner = num_heads * head_dim
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, embed_dim))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.empty(3 * inner)) if bias else None)
        self.out_proj = nn.modules.linear.NonDynamicallyQuantizableLinear(inner, embed_dim, bias=bias)
        self._reset_parameters()

    @classmethod
    def of(cls, module: nn.MultiheadAttention) -> NarrowedAttention:
        """Return an attention that is equivalent to ``module`` and shares its weights.

        Raises:
            SpaceError: keys or values differ from queries in width, or the attention adds keys of its own.
        """
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise SpaceError("an attention with kdim, vdim, add_bias_kv or add_zero_attn cannot be cut.")
        with torch.device("meta"):  # weights are not drawn, since those of the module replace them
            new = cls(
                module.embed_dim,
                module.num_heads,
                module.head_dim,
                bias=module.in_proj_bias is not None,
                dropout=module.dropout,
                batch_first=module.batch_first,
            )
        for name in ("in_proj_weight", "in_proj_bias"):
            setattr(new, name, getattr(module, name))
        new.out_proj = module.out_proj
        return new.train(module.training)

    def _reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.in_proj_weight)
        if self.in_proj_bias is not None:
            nn.init.zeros_(self.in_proj_bias)
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention; arguments and results are those of ``torch.nn.MultiheadAttention``."""
        q, k, v = qkv(self, query, key, value)
        mask = self._mask(q, key_padding_mask, attn_mask)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = scores(q, k, mask).softmax(-1)
            mixed = functional.dropout(weights, rate) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            causal = is_causal and mask is None
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=rate, is_causal=causal)
        made = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if query.dim() == 2:
            return made.squeeze(0), None if weights is None else weights.squeeze(0)
        return made if self.batch_first else made.transpose(0, 1), weights

    def _mask(self, q: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Return the summand of the scores, broadcastable to (B, heads, N, N); None if nothing is masked."""
        parts = []
        if mask is not None:
            # Torch takes (N, N), or (B * heads, N, N).
            parts.append(_added(mask.unflatten(0, (-1, self.num_heads)) if mask.dim() == 3 else mask, q))
        if padding is not None:
            parts.append(_added(padding if padding.dim() == 2 else padding[None], q)[:, None, None, :])
        return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, q: Tensor) -> Tensor:
    """Return a mask as a summand of the scores: -inf where a bool mask is True; other masks are not changed."""
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, -math.inf)


def as_encoder_layer(new: nn.Module, old: nn.Module) -> nn.Module:
    """Return ``new`` with the attributes that torch's TransformerEncoder reads from its first layer, ``old``."""
    if isinstance(old, nn.TransformerEncoderLayer):
        setattr(new, "self_attn", SimpleNamespace(batch_first=old.self_attn.batch_first))  # noqa: B010
    return new


def disable_nested_tensors(module: nn.Module) -> None:
    """Disable nested tensors in torch's encoders, in place; only torch's own layers of usual shapes accept them."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
