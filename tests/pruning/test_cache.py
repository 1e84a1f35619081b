from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nas_distill.config import FromTeacherConfig
from nas_distill.data import Dataset, Views
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.inheritance import CachedPlan, plan_cache_key, read_cached_plan, write_cached_plan
from nas_distill.teacher import Teacher, freeze

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.blocks(x).amax((2, 3)))
"""


def data(seed: int = 0, size: int = 8, views: Views | None = None) -> Dataset:
    x = torch.rand(20, 1, size, size, generator=torch.Generator().manual_seed(seed))
    return Dataset.from_tensors(x, torch.arange(20) % 2, val=0.2, views=views)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Teacher]:
    """Return a function that makes a teacher of a class in ``file``; without it, of one without source."""

    def make(
        code: str = NETWORK, file: Path | None = tmp_path / "network.py", width: int = 4, seed: int = 0
    ) -> Teacher:
        module = types.ModuleType("network_of_a_test")
        if file is not None:
            file.write_text(code, encoding="utf-8")
            module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, str(file), "exec"), module.__dict__)
        kind: type[nn.Module] = module.Network
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return freeze(kind(width), data())

    return make


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def origin(teacher: Teacher, given: Dataset | None = None, **options: Any) -> dict[str, Any]:
    found = plan_cache_key(teacher, data() if given is None else given, FromTeacherConfig(**options))
    assert found is not None
    return found


@pytest.fixture
def findings(make: Callable[..., Teacher]) -> CachedPlan:
    plan = find_plan(make().module, (1, 8, 8))
    assert plan.groups
    assert plan.blocks
    return CachedPlan(plan, (1, 0))


def test_a_cached_plan_round_trips(make: Callable[..., Teacher], findings: CachedPlan, tmp_path: Path) -> None:
    for number, each in enumerate((findings, CachedPlan(findings.plan, None))):
        file = tmp_path / f"{number}.json"
        write_cached_plan(file, each, origin(make()))
        assert read_cached_plan(file, origin(make())) == each


def test_a_plan_of_another_teacher_or_other_settings_is_not_used(
    make: Callable[..., Teacher], findings: CachedPlan, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    write_cached_plan(file, findings, origin(make()))
    others = {
        "weights": origin(make(seed=1)),
        "structure": origin(make(width=6)),
        "forward": origin(make(NETWORK.replace("self.blocks(x)", "self.blocks(x).relu()"))),
        "samples": origin(make(), data(size=10)),
        "blocks": origin(make(), blocks=["blocks.1"]),
        "depth": origin(make(), depth="position"),
        "format": {**origin(make()), "format": 0},
    }
    assert {name: read_cached_plan(file, other) for name, other in others.items()} == dict.fromkeys(others)


def test_only_a_measured_order_depends_on_the_data(
    make: Callable[..., Teacher],
) -> None:
    teacher = make()
    others = [(data(seed=1), 1024), (data(views=Views(2, pad=1)), 1024), (data(), 10)]
    for other, samples in others:
        assert origin(teacher, other, depth="redundancy", samples=samples) != origin(teacher, depth="redundancy")
        assert origin(teacher, other, samples=samples) == origin(teacher)
    assert origin(teacher, widths=[0.5, 1], multiple=4, start="both", importance="random") == origin(teacher)


def test_the_key_does_not_depend_on_the_path_of_the_code(make: Callable[..., Teacher], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert origin(make()) == origin(make(file=tmp_path / "other" / "moved.py"))


def test_a_network_without_source_files_has_no_key(make: Callable[..., Teacher]) -> None:
    assert plan_cache_key(make(file=None), data(), FromTeacherConfig()) is None


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(choice=st.data())
def test_a_damaged_file_is_never_read_as_another_plan(
    findings: CachedPlan, tmp_path: Path, no_fsync: None, choice: st.DataObject
) -> None:
    file, expected = tmp_path / "plan.json", {"teacher": "0a1b", "blocks": None}
    write_cached_plan(file, findings, expected)
    whole = file.read_bytes()
    place = choice.draw(st.integers(0, len(whole) - 1))
    instead = choice.draw(st.binary(max_size=3))
    file.write_bytes(whole[:place] + instead + whole[place + 1 :])
    assert read_cached_plan(file, expected) in (None, findings)
    file.write_bytes(whole[:place])
    assert read_cached_plan(file, expected) in (None, findings)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", "{}", '"plan"', '{"sha256": 3}'])
def test_files_of_other_content_are_not_used(make: Callable[..., Teacher], tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content, encoding="utf-8")
    assert read_cached_plan(tmp_path / "plan.json", origin(make())) is None
    assert read_cached_plan(tmp_path / "missing.json", origin(make())) is None


def test_a_plan_that_was_edited_is_not_used(make: Callable[..., Teacher], findings: CachedPlan, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    write_cached_plan(file, findings, origin(make()))
    content = json.loads(file.read_text(encoding="utf-8"))
    content["plan"]["groups"][0]["size"] = 2
    file.write_text(json.dumps(content), encoding="utf-8")
    assert read_cached_plan(file, origin(make())) is None
