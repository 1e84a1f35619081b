"""Matching of student layers with teacher layers by kind, size and depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas_distill.utils.errors import TrainingError, did_you_mean
from nas_distill.utils.layers.find import Layer, LayerKind

_KINDS: tuple[LayerKind, ...] = ("map", "tokens", "vector")
_IndexPairs = list[tuple[int, int]]
_Choice = tuple[tuple[int, float], _IndexPairs]


@dataclass(frozen=True)
class Pair:
    """A layer of the student and the layer of the teacher that it learns from; both of the same kind."""

    student: Layer
    teacher: Layer


def match_layers(student: Sequence[Layer], teacher: Sequence[Layer]) -> list[Pair]:
    """Pair the layers of two networks, each ordered from shallow to deep; the pairs are in the student's order.

    Within a kind, order is preserved, a layer is used at most once, all layers of the side with fewer are used, and the
    last learns from the last. Maps are paired by resolution: as many of equal resolution as possible, the others by the
    nearest ratio, and of equally good choices the deeper. Both networks must see the same input, so that a resolution
    means the same in both. Tokens are paired by relative depth: block i of s learns from block
    ceil((i + 1) t / s) - 1 of t, counted from 0 (where s divides t, TinyBERT's map; Jiao et al., 2019,
    arXiv:1909.10351). Vectors are paired from the last backwards.

    Raises:
        TrainingError: the networks have no kind of layer in common.
    """
    found: list[tuple[int, Pair]] = []
    for kind in _KINDS:
        ours = [(index, layer) for index, layer in enumerate(student) if layer.kind == kind]
        theirs = [layer for layer in teacher if layer.kind == kind]
        for i, j in _match([layer for _, layer in ours], theirs, kind):
            index, layer = ours[i]
            found.append((index, Pair(layer, theirs[j])))
    if not found:
        raise TrainingError(
            f"The student and the teacher have no kind of layer in common. Student: {_listed(student)}. "
            f"Teacher: {_listed(teacher)}. Distil only logits, or name pairs of layers."
        )
    return [pair for _, pair in sorted(found, key=lambda item: item[0])]


def pairs_by_name(names: Sequence[tuple[str, str]], student: Sequence[Layer], teacher: Sequence[Layer]) -> list[Pair]:
    """Return the pairs of the given names, (student's layer, teacher's layer), in that order.

    The layers of each side come from ``find_layers``, or from ``layers_named`` for other layers.

    Raises:
        TrainingError: a layer does not exist, or the layers of a pair are of different kinds.
    """
    pairs = [Pair(_named(ours, student, "student"), _named(theirs, teacher, "teacher")) for ours, theirs in names]
    for pair in pairs:
        if pair.student.kind != pair.teacher.kind:
            raise TrainingError(
                f"The student's layer {pair.student} cannot learn from the teacher's layer {pair.teacher}; name two "
                "layers of the same kind."
            )
    return pairs


def describe_pairs(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Return one table row per pair: the student's layer and the teacher's, with kind and shape."""
    return [(str(pair.student), str(pair.teacher)) for pair in pairs]


def _match(student: Sequence[Layer], teacher: Sequence[Layer], kind: LayerKind) -> list[tuple[int, int]]:
    if not student or not teacher:
        return []
    if len(student) > len(teacher):
        return [(i, j) for j, i in _match(teacher, student, kind)]
    if kind == "map":
        return _by_resolution(student, teacher)
    s, t = len(student), len(teacher)
    if kind == "tokens":
        return [(i, -(-(i + 1) * t // s) - 1) for i in range(s)]
    return [(i, t - s + i) for i in range(s)]


def _by_resolution(few: Sequence[Layer], many: Sequence[Layer]) -> list[tuple[int, int]]:
    """Return one of ``many`` for each of ``few`` at the least total cost, in order, the last with the last.

    The cost is the number of unequal resolutions, then the sum of the logarithms of the ratios.
    """
    # best[j] is the best pairing of the layers of `few` so far with the first j of `many`.
    best: list[_Choice | None] = [((0, 0.0), [])] * len(many)
    for i, layer in enumerate(few[:-1]):
        row: list[_Choice | None] = [None] * len(many)
        for j in range(1, len(many)):
            row[j] = row[j - 1]
            before = best[j - 1]
            if before is None:
                continue
            (unequal, distance), pairs = before
            ratio = _distance(layer, many[j - 1])
            cost = (unequal + (layer.shape[1:] != many[j - 1].shape[1:]), distance + ratio)
            kept = row[j]
            if kept is None or cost <= kept[0]:  # of equal costs the deeper
                row[j] = (cost, [*pairs, (i, j - 1)])
        best = row
    last = best[len(many) - 1]
    assert last is not None  # there are at least as many of `many`
    return [*last[1], (len(few) - 1, len(many) - 1)]


def _distance(one: Layer, other: Layer) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one.shape[1:], other.shape[1:]))


def _named(name: str, layers: Sequence[Layer], side: str) -> Layer:
    for layer in layers:
        if layer.name == name:
            return layer
    raise TrainingError(f"The {side} has no layer '{name}'{did_you_mean(name, [layer.name for layer in layers])}")


def _listed(layers: Sequence[Layer]) -> str:
    return ", ".join(map(str, layers)) or "none"
