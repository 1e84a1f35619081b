"""Pairing: the student and teacher layers that loss terms compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_distill.distill.losses.registry import Layers
from nas_distill.distill.objective import Term
from nas_distill.teacher.signal import Feature
from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers import (
    Layer,
    Pair,
    Tap,
    attention_names,
    find_layers,
    layers_named,
    match_layers,
    pairs_by_name,
)
from nas_distill.utils.modules import eval_mode

# Suffix that a tap gives the stacked queries, keys and values of an attention.
_QKV = ":qkv"
_ATTENTION: tuple[Layers, ...] = ("attention", "last attention")


@dataclass(frozen=True)
class TermPairs:
    """The layers that one term reads: the student's names, the keys of the teacher's features, and the shapes."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    pairs: tuple[Pair, ...] = ()


def teacher_features(terms: Sequence[Term], teacher: nn.Module, x: Tensor) -> tuple[Feature, ...]:
    """Return the teacher's features that ``terms`` may need; the student determines which of them are used.

    Args:
        terms: the loss terms of a training.
        teacher: the frozen module; it runs on ``x`` once.
        x: (B, ...) samples.

    Raises:
        TrainingError: the teacher has no layer of a kind that a term needs, or lacks a layer that a term names.
    """
    found: dict[str, Feature] = {}
    # Features are in order of depth for any order of terms: stages include all tokens, and the last layer comes last.
    ranks = {"stages": 0, "last": 2, "last attention": 2}
    for term in sorted(terms, key=lambda term: (term.config.layers != "auto", ranks.get(term.spec.layers, 1))):
        named = term.config.layers != "auto"
        for layer in _layers(term, teacher, x, side=1):
            feature = Feature(layer, term.spec.reduction, named)
            found.setdefault(feature.key, feature)
    return tuple(found.values())


def pair_layers(term: Term, student: nn.Module, features: Sequence[Feature], x: Tensor) -> TermPairs:
    """Return the layers of a student that ``term`` compares with a teacher's ``features``.

    Raises:
        TrainingError: student and teacher have no matching layers, or a named layer is missing.
    """
    if term.spec.layers == "none":
        return TermPairs()
    if term.spec.own:
        own = _layers(term, student, x, side=0)
        return TermPairs(tuple(layer.name for layer in own), shapes=tuple((layer.shape, ()) for layer in own))
    known = {feature.layer.name: feature for feature in features if feature.reduction == term.spec.reduction}
    ours = _layers(term, student, x, side=0)
    if term.config.layers != "auto":
        named = [pair for pair in term.config.layers if not isinstance(pair, str)]
        pairs = pairs_by_name(named, ours, [feature.layer for feature in known.values()])
    else:
        wanted = _wanted([feature.layer for feature in known.values() if not feature.named], term.spec.layers)
        pairs = match_layers(ours, wanted)
    theirs = [known[pair.teacher.name] for pair in pairs]
    return TermPairs(
        tuple(pair.student.name for pair in pairs),
        tuple(feature.key for feature in theirs),
        tuple((pair.student.shape, feature.shape) for pair, feature in zip(pairs, theirs)),
        tuple(pairs),
    )


def _layers(term: Term, module: nn.Module, x: Tensor, *, side: int) -> list[Layer]:
    """Return the layers of student (side 0) or teacher (side 1) that a term may read: by name, else by kind."""
    kind = term.spec.layers
    if kind == "none" or (term.spec.own and side == 1):
        return []
    if term.config.layers != "auto":
        names = list(dict.fromkeys(pair if isinstance(pair, str) else pair[side] for pair in term.config.layers))
        return _attention(module, x, names) if kind in _ATTENTION else layers_named(module, x, names)
    if kind in _ATTENTION:
        found = _attention(module, x, [f"{name}{_QKV}" for name in attention_names(module)])
    else:
        found = find_layers(module, x)
    wanted = _wanted(found, kind)
    if not wanted:
        who = "teacher" if side else "student"
        raise TrainingError(
            f"The loss '{term.config.name}' needs {_NEEDS[kind]}, and none was found in the {who} "
            f"({type(module).__name__}); name {'layers' if term.spec.own else 'pairs'} under 'layers', or use another "
            "loss."
        )
    return wanted


_NEEDS: dict[Layers, str] = {
    "stages": "feature maps or blocks of tokens",
    "last": "a feature map or a block of tokens",
    "vector": "the vector before the classifier",
    "tokens": "blocks of tokens",
    "attention": "torch.nn.MultiheadAttention layers",
    "last attention": "a torch.nn.MultiheadAttention",
}


def _wanted(layers: Sequence[Layer], kind: Layers) -> list[Layer]:
    # A teacher's features include kinds that other terms need.
    layers = [layer for layer in layers if layer.name.endswith(_QKV) == (kind in _ATTENTION)]
    if kind == "vector":
        return [layer for layer in layers if layer.kind == "vector"][-1:]
    if kind in ("tokens", "attention", "last attention"):
        tokens = [layer for layer in layers if layer.kind == "tokens"]
        return tokens[-1:] if kind == "last attention" else tokens
    inner = [layer for layer in layers if layer.kind != "vector"]
    return inner[-1:] if kind == "last" else inner


def _attention(module: nn.Module, x: Tensor, names: Sequence[str]) -> list[Layer]:
    """Return the queries, keys and values of attentions as layers of kind tokens, with the shape per sample.

    Raises:
        TrainingError: a name is not that of an attention, or the network has no such layer.
    """
    for name in names:
        if not name.endswith(_QKV):
            raise TrainingError(f"A loss on attention cannot read layer '{name}'; name attentions as 'path{_QKV}'.")
    tap = Tap(module, names)
    with eval_mode(module), torch.no_grad(), tap:
        module(x)
    shapes = {name: tuple(value.shape) for name, value in tap.features.items()}
    # Values are (3, B, heads, N, d). The batch is the second dimension, so the shape per sample is (3, heads, N, d).
    return [Layer(name, (shape[0], *shape[2:]), "tokens") for name, shape in shapes.items()]
