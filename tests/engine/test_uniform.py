"""The network that needs no search: its choice, its place in the journal, and its full training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.config import SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.finalists import uniform_of
from nas_distill.engine.first_candidates import first_candidates
from nas_distill.engine.uniform import (
    NARROWING,
    SCALING,
    find_uniform,
    note_uniform,
    trial_of,
    uniform_finalist,
    uniformly_narrowed,
)
from nas_distill.pruning.plan import UNPRUNED, Block, Group, Plan, Slot
from nas_distill.pruning.space import CutSpace
from nas_distill.runs.metadata import UNIFORM, Finalist, RunMetadata, UniformRecord
from nas_distill.runs.records import Rung, TrialRecord
from nas_distill.spaces import Architecture, SearchSpace

SIZES = (32, 24, 16, 40)


def group(name: str, size: int, block: int | None = None) -> Group:
    return Group(name, "channels", size, (Slot(name, "out", tuple((unit,) for unit in range(size))),), block)


PLAN = Plan(
    groups=tuple(group(f"g{place}", size, place if place < 2 else None) for place, size in enumerate(SIZES)),
    blocks=tuple(Block(f"blocks.{place}", True, "g2", "g2", 1, 16, 16) for place in range(2)),
    unpruned=(),
)
CUTS = CutSpace.from_plan(PLAN, multiple=1, start="both")


def narrowed_costs(architecture: Architecture) -> dict[str, float]:
    cut = CUTS.decode(architecture)
    return {"flops": float(sum(width**2 for width in cut.widths.values())), "params": float(len(cut.widths))}


def pricing(budget: dict[str, Any], costs: Any = narrowed_costs) -> Pricing:
    return Pricing(costs, Budget.parse(budget))


def shares_of(architecture: Architecture) -> list[float]:
    cut = CUTS.decode(architecture)
    assert set(cut.blocks) == {UNPRUNED}
    assert cut.start == "inherited"
    return [cut.widths[f"g{place}"] / size for place, size in enumerate(SIZES)]


def whole(share: float) -> float:
    return sum((share * size) ** 2 for size in SIZES)


def test_uniform_narrowing_keeps_one_share_of_every_group_and_all_blocks() -> None:
    found = uniformly_narrowed(CUTS, pricing({"flops": whole(0.5)}))
    assert found is not None
    assert shares_of(found) == [0.5] * 4


def test_the_remainder_of_the_budget_widens_groups_by_one_step_at_most() -> None:
    found = uniformly_narrowed(CUTS, pricing({"flops": whole(0.5) + 0.32 * 32**2}))
    assert found is not None
    assert shares_of(found) == [0.75, 0.5, 0.5, 0.5]
    # The first does not fit, the others do.
    found = uniformly_narrowed(CUTS, pricing({"flops": whole(0.5) + 0.32 * 24**2 + 0.32 * 16**2}))
    assert found is not None
    assert shares_of(found) == [0.5, 0.75, 0.75, 0.5]


@settings(deadline=None, max_examples=60)
@given(st.floats(whole(0.125), 1.1 * whole(1.0)))
def test_uniform_narrowing_is_within_the_budget_at_two_neighbouring_shares(limit: float) -> None:
    found = uniformly_narrowed(CUTS, pricing({"flops": limit}))
    assert found is not None
    assert narrowed_costs(found)["flops"] <= limit
    widths = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    places = sorted({widths.index(share) for share in shares_of(found)})
    assert places[-1] - places[0] <= 1
    if places[0] + 1 < len(widths):
        assert whole(widths[places[0] + 1]) > limit  # no larger share would have fit


def test_no_uniform_network_without_limits_or_if_none_fits() -> None:
    assert uniformly_narrowed(CUTS, pricing({})) is None
    assert uniformly_narrowed(CUTS, pricing({"flops": whole(0.125) - 1})) is None
    assert uniformly_narrowed(CUTS, pricing({"flops": {"min": whole(0.5) + 1, "max": whole(0.5) + 2}})) is None
    # What is below a lower limit is not too large.
    found = uniformly_narrowed(CUTS, pricing({"flops": {"min": whole(0.5) - 1, "max": whole(0.5) + 1}}))
    assert found is not None


SPACE = SearchSpace.from_dict({"width": [1, 2, 3, 4], "depth": [1, 2]}, builder="builtins:dict")


def scaled_costs(architecture: Architecture) -> dict[str, float]:
    values = architecture.to_dict()
    return {"flops": float(values["width"] * values["depth"])}


def test_the_name_says_how_it_was_found() -> None:
    of_cuts = find_uniform(CUTS.search_space("nas_distill.pruning.build:build"), pricing({"flops": 1e6}), CUTS)
    assert of_cuts.name == NARROWING
    own = find_uniform(SPACE, pricing({"flops": 4}, scaled_costs))
    assert own.name == SCALING
    assert own.architecture is not None
    assert own.costs == scaled_costs(Architecture(own.architecture))
    assert find_uniform(SPACE, pricing({}, scaled_costs)) == UniformRecord(name=SCALING, architecture=None, costs={})


class Book:
    """The metadata of a journal, without the journal."""

    def __init__(self, **fields: Any) -> None:
        self.metadata = RunMetadata(**fields)

    def note(self, **changes: Any) -> None:
        self.metadata = self.metadata.changed(**changes)


def test_it_is_noted_once_and_a_resumed_search_has_the_same() -> None:
    book: Any = Book()
    note_uniform(book, SPACE, pricing({"flops": 4}, scaled_costs))
    noted = book.metadata.uniform
    note_uniform(book, SPACE, pricing({"flops": 8}, scaled_costs))
    assert book.metadata.uniform == noted is not None


def test_a_run_begun_without_uniform_networks_continues_without() -> None:
    book: Any = Book(first_candidates=({"width": 1, "depth": 1},))
    note_uniform(book, SPACE, pricing({"flops": 4}, scaled_costs))
    assert book.metadata.uniform is None


def test_metadata_without_the_field_are_read(tmp_path: Any) -> None:
    stored = RunMetadata().model_dump(mode="json")
    del stored["uniform"]
    assert RunMetadata.read(stored, tmp_path).uniform is None


def test_it_is_among_the_first_candidates() -> None:
    space = CUTS.search_space("nas_distill.pruning.build:build")
    price = pricing({"flops": 0.6 * whole(1.0)})
    book: Any = Book()
    note_uniform(book, space, price, CUTS)
    chosen = first_candidates(book, space, price, search=SearchConfig(seeds=3), by="flops", seed=0)
    assert Architecture(book.metadata.uniform.architecture) in chosen


def record(number: int, width: int, state: Any, quality: float | None = 0.5, **more: Any) -> TrialRecord:
    fields: dict[str, Any] = {
        "number": number,
        "index": number,
        "key": f"t{number:05}",
        "state": state,
        "architecture": Architecture({"width": width, "depth": 2}),
        "origin": "sampler",
        "costs": {},
        "reports": {} if quality is None else {0: Rung(quality, 1, 1.0, 1.0)},
        "violations": {},
        "stop": None,
        "cause": None,
        "duplicate_of": None,
        "retry_of": None,
        "values": None,
    }
    return TrialRecord(**{**fields, **more})


KNOWN = UniformRecord(name=SCALING, architecture={"width": 2, "depth": 2}, costs={"flops": 4.0})


@pytest.mark.parametrize(
    ("state", "quality", "score"),
    [
        ("complete", 0.7, 0.7),
        ("pruned", 0.6, None),
        ("failed", None, None),
        ("complete", float("nan"), None),
    ],
)
def test_a_candidate_keeps_its_trial_and_only_a_complete_one_has_a_score(
    state: str, quality: float | None, score: float | None
) -> None:
    records = [record(0, 3, "complete"), record(1, 2, state, quality), record(2, 2, "duplicate", None, duplicate_of=1)]
    found = uniform_finalist(KNOWN, records)
    assert found is not None
    assert (found.key, found.trial, found.score, found.taught) == ("t00001", 1, score, True)
    assert found.costs == KNOWN.costs  # a failed trial may have none


def test_what_was_no_candidate_has_a_key_and_no_trial() -> None:
    found = uniform_finalist(KNOWN, [record(0, 3, "complete")])
    assert found is not None
    assert (found.key, found.trial, found.score) == (UNIFORM, None, None)
    assert found.title == "uniform network"
    assert uniform_finalist(None, []) is None
    assert uniform_finalist(KNOWN.model_copy(update={"architecture": None}), []) is None


def test_the_latest_attempt_is_its_trial() -> None:
    again = record(3, 2, "complete", key="t00001", retry_of=1, index=1)
    assert trial_of(Architecture({"width": 2, "depth": 2}), [record(1, 2, "interrupted"), again]) == again


def test_its_training_is_found_by_its_architecture() -> None:
    def entry(key: str, width: int, **more: Any) -> Finalist:
        values = {"trial": 0, "costs": {}, "taught": True, "score": None, **more}
        return Finalist(key=key, architecture={"width": width, "depth": 2}, **values)

    entries = [entry("a", 3), entry("b-labels", 2, taught=False), entry("b", 2)]
    metadata: Any = SimpleNamespace(uniform=KNOWN, finalists={one.key: one for one in entries})
    found = uniform_of(metadata)
    assert found is not None
    assert found.key == "b"
    assert uniform_of(RunMetadata()) is None
