"""Proposals of assemblies from a library of blocks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from nas_distill.blockwise import assembler as module
from nas_distill.blockwise.assembler import STEP, Assembly, LibraryAssembler
from nas_distill.blockwise.fit import MINIMUM
from nas_distill.config import BlockwiseConfig
from nas_distill.costs.budget import Limit
from nas_distill.spaces import Architecture


class Pairs:
    """A space whose cuts are plain values."""

    def encode(self, cut: Any) -> Architecture:
        return Architecture(cut)

    def decode(self, architecture: Architecture) -> Any:
        return architecture.to_dict()


LIBRARY = SimpleNamespace(alternatives=SimpleNamespace(space=Pairs()))


def assembly(a: int, b: int) -> Assembly:
    cut: Any = {"a": a, "b": b}
    return Assembly(cut, (f"a{a}", f"b{b}"), {"flops": float(a + b)}, float(a + b), (float(a), float(b)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Fakes of the integer program, which record their arguments and answer by the weights."""
    calls: list[dict[str, Any]] = []

    def solve(library: Any, limits: Any, *, count: int, weights: Any = None, **more: Any) -> list[Assembly]:
        calls.append({"weights": weights, "limits": dict(limits), "count": count})
        first = 0 if weights is None else 20
        return [assembly(first + index, 1) for index in range(count)]

    def sweep(library: Any, limits: Any, cost: str, *, points: Any, weights: Any = None, **more: Any) -> list[Assembly]:
        calls.append({"weights": weights, "points": points, "cost": cost})
        first = 10 if weights is None else 25
        return [assembly(first + index, 2) for index in range(3)]

    def local(library: Any, values: Any, score: str) -> tuple[float, ...] | None:
        return None if values["a"] == 60 else (values["a"] / 60, values["b"] / 60)

    monkeypatch.setattr(module, "assemblies", solve)
    monkeypatch.setattr(module, "front", sweep)
    monkeypatch.setattr(module, "block_scores", local)
    return calls


def make(limits: dict[str, Limit], **options: Any) -> LibraryAssembler:
    settings = BlockwiseConfig(solutions=options.pop("solutions", 4))
    return LibraryAssembler(LIBRARY, limits, by="flops", settings=settings, exclusive=True, seed=0)  # type: ignore[arg-type]


def propose_all(assembler: LibraryAssembler, quality: Any) -> list[Architecture]:
    scored: list[tuple[Architecture, float]] = []
    while (found := assembler.propose(scored, {each.hash for each, _ in scored})) is not None:
        scored.append((found, quality(found.to_dict())))
    return [each for each, _ in scored]


def test_the_front_is_swept_from_the_budget_down_and_expensive_ones_come_first(asked: list[dict[str, Any]]) -> None:
    found = propose_all(make({"flops": Limit(None, 100.0), "latency_ms": Limit(None, 1.0)}), lambda values: 0.5)
    assert [values.to_dict() for values in found] == [
        {"a": 12, "b": 2},
        {"a": 11, "b": 2},
        {"a": 0, "b": 1},
        {"a": 1, "b": 1},
    ]
    assert asked[0]["points"] == pytest.approx([100.0 * STEP**index for index in range(4)])
    assert asked[1]["limits"] == {"flops": Limit(None, 100.0)}  # latency is no sum over blocks


def test_without_a_limit_the_whole_front_is_swept(asked: list[dict[str, Any]]) -> None:
    make({}).propose([], set())
    assert asked[0]["points"] == 4


def test_assemblies_by_fitted_weights_follow_after_enough_trainings(asked: list[dict[str, Any]]) -> None:
    """Quality depends only on block a here, so its weight rises; what was proposed before is not proposed again."""
    found = propose_all(make({}, solutions=MINIMUM), lambda values: 1 - values["a"] / 40)
    assert len(found) > MINIMUM
    assert len(set(found)) == len(found)
    fitted = [call["weights"] for call in asked if call["weights"] is not None]
    assert fitted
    assert all(a > b for a, b in fitted)


def test_too_few_students_of_library_blocks_are_not_fitted(asked: list[dict[str, Any]]) -> None:
    assembler = make({})
    unknown = [(Architecture({"a": 60, "b": index}), 0.5) for index in range(MINIMUM)]
    known = [(Architecture({"a": index, "b": index}), 0.5 + index / 100) for index in range(MINIMUM)]
    assert assembler.fit([*unknown, *known[:-1]]) is None
    fitted = assembler.fit([*unknown, *known])
    assert fitted is not None
    assert fitted.plain.count == MINIMUM


def test_students_with_a_block_that_diverged_are_not_fitted(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def local(library: Any, values: Any, score: str) -> tuple[float, ...]:
        return (math.inf if values["a"] > 30 else values["a"] / 60, values["b"] / 60)

    monkeypatch.setattr(module, "block_scores", local)
    fitted = make({}).fit([(Architecture({"a": index, "b": index}), 0.9 - index / 100) for index in range(60)])
    assert fitted is not None
    assert fitted.plain.count == 31
