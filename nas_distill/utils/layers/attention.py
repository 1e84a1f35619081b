"""Queries, keys, values and scores of ``torch.nn.MultiheadAttention``, which does not expose them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.utils.errors import TrainingError

_POSITIONAL = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")


def qkv(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the projected queries, keys and values, each (B, heads, N, d).

    Args:
        module: the attention; its ``batch_first`` defines the order of B and N.
        query: its first argument: (B, N, D), or (N, B, D), or (N, D) for one sample.
        key: its second argument, likewise.
        value: its third argument, likewise.

    Raises:
        TrainingError: the module adds its own keys (``add_bias_kv``, ``add_zero_attn``).
    """
    if module.bias_k is not None or module.add_zero_attn:
        raise TrainingError("An attention with add_bias_kv or add_zero_attn adds its own keys and cannot be tapped.")
    if module.in_proj_weight is None:
        weights: Sequence[Tensor] = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        weights = module.in_proj_weight.chunk(3)
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    q, k, v = (
        functional.linear(_batch_first(module, x), weight, bias)
        .unflatten(-1, (module.num_heads, module.head_dim))
        .transpose(1, 2)
        for x, weight, bias in zip((query, key, value), weights, biases)
    )
    return q, k, v


def scores(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return ``q k^T / sqrt(d) + mask``, (B, heads, N, N): the input of the softmax over the last dimension.

    Args:
        q: (B, heads, N, d).
        k: (B, heads, N, d).
        mask: broadcastable to the scores; a bool mask hides a key where it is True, as in torch's attention, any
            other is added. Hidden scores are -inf, so a loss on scores must replace them (``masked_fill``) first.
    """
    raw = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is None:
        return raw
    return raw.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else raw + mask.to(raw.dtype)


def attention_names(module: nn.Module) -> list[str]:
    """Return the names of torch's multi-head attentions in ``module``, in order of registration."""
    return [name for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)]


def qkv_of_call(module: nn.MultiheadAttention, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the stacked (3, B, heads, N, d) queries, keys and values of a call of ``module``.

    Raises:
        TrainingError: the numbers of keys and queries differ, or the module cannot be tapped.
    """
    call = dict(zip(_POSITIONAL, args)) | dict(kwargs)
    q, k, v = qkv(module, call["query"], call["key"], call["value"])
    if q.shape != k.shape:
        raise TrainingError(
            f"A cross-attention of {q.shape[2]} queries over {k.shape[2]} keys cannot be tapped by ':qkv', which "
            "stacks them; tap its ':attention'."
        )
    return torch.stack((q, k, v))


def scores_of_call(module: nn.MultiheadAttention, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the (B, heads, N, N) scores of a call of ``module``, its masks applied."""
    call = dict(zip(_POSITIONAL, args)) | dict(kwargs)
    q, k, _ = qkv(module, call["query"], call["key"], call["value"])
    result = scores(q, k, _over_heads(call.get("attn_mask"), module.num_heads))
    hidden = call.get("key_padding_mask")
    return result if hidden is None else _hide_keys(result, hidden)


def _batch_first(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    if x.dim() == 2:
        return x.unsqueeze(0)
    return x if module.batch_first else x.transpose(0, 1)


def _over_heads(mask: Tensor | None, heads: int) -> Tensor | None:
    """Return a mask (N, N), or (B * heads, N, N) as (B, heads, N, N)."""
    return mask.unflatten(0, (-1, heads)) if mask is not None and mask.dim() == 3 else mask


def _hide_keys(raw: Tensor, hidden: Tensor) -> Tensor:
    rows = hidden.unsqueeze(0) if hidden.dim() == 1 else hidden
    rows = rows[:, None, None, :]
    return raw.masked_fill(rows, -math.inf) if rows.dtype == torch.bool else raw + rows.to(raw.dtype)
