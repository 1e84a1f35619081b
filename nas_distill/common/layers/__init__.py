"""Layers of a network that is not changed for it: finding them, seeing their content, pairing them with a teacher's."""

from nas_distill.common.layers.adaptor import logits_of, tensor_of
from nas_distill.common.layers.attention import attention_names, qkv, scores
from nas_distill.common.layers.find import find_layers, layers_named
from nas_distill.common.layers.layer import Kind, Layer
from nas_distill.common.layers.match import Pair, describe_pairs, match_layers, pairs_by_name
from nas_distill.common.layers.taps import Tap

__all__ = [
    "Adaptor",
    "Kind",
    "Layer",
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
