from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from nas_distill.config import SearchConfig
from nas_distill.spaces import Architecture
from tests.engine.test_controller import next_work, small, train


class Two:
    """Proposes two candidates, and a third once both are scored; writes down what it was told."""

    origin = "assembled"

    def __init__(self, exclusive: bool) -> None:
        self.exclusive = exclusive
        self.told: list[list[float]] = []

    def propose(self, scored: Sequence[tuple[Architecture, float]], seen: Collection[str]) -> Architecture | None:
        self.told.append([quality for _, quality in scored])
        widths = [8, 16, 24] if len(scored) >= 2 else [8, 16]
        wanted = [Architecture({"width": width, "depth": 2}) for width in widths]
        return next((architecture for architecture in wanted if architecture.hash not in seen), None)


def test_assembled_candidates_come_before_seeds_and_sampler(make_bench: Callable[..., Any]) -> None:
    bench = small(make_bench, search=SearchConfig(trials=7, seeds=2))
    bench.run(assembler=Two(exclusive=False))
    origins = [record.origin for record in bench.records()]
    assert origins[:5] == ["assembled", "assembled", "assembled", "first_candidate", "first_candidate"]
    assert set(origins[5:]) == {"sampler"}


def test_an_exclusive_assembler_ends_the_search_with_its_last_candidate(make_bench: Callable[..., Any]) -> None:
    bench = small(make_bench, search=SearchConfig(trials=7))
    assembler = Two(exclusive=True)
    controller = bench.run(assembler=assembler)
    records = bench.records()
    assert [record.origin for record in records] == ["assembled"] * 3
    assert controller.conclude().end_reason.startswith("there are no more assembled candidates")
    assert assembler.told[-1] == pytest.approx([record.quality for record in records])


def test_a_resumed_search_is_not_proposed_what_it_has(make_bench: Callable[..., Any]) -> None:
    bench = small(make_bench, search=SearchConfig(trials=7))
    with bench.controller(assembler=Two(exclusive=True)) as controller:
        work = next_work(controller)
        train(controller, work, *[0.01] * len(bench.score.rungs))
    bench.run(assembler=Two(exclusive=True))
    widths = [record.architecture.to_dict()["width"] for record in bench.records() if record.state == "complete"]
    assert sorted(widths) == [8, 16, 24]
