"""Layers of a network: discovery, taps on their activations, and matching between two networks."""

from nas_distill.utils.layers.attention import attention_names, qkv, scores
from nas_distill.utils.layers.find import Layer, LayerKind, find_layers, layers_named
from nas_distill.utils.layers.match import Pair, describe_pairs, match_layers, pairs_by_name
from nas_distill.utils.layers.taps import Tap, logits_of, tensor_of

__all__ = [
    "Layer",
    "LayerKind",
    "Pair",
    "Tap",
    "attention_names",
    "describe_pairs",
    "find_layers",
    "layers_named",
    "logits_of",
    "match_layers",
    "pairs_by_name",
    "qkv",
    "scores",
    "tensor_of",
]
