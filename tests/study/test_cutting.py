"""Searches whose students are cut from the teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas_distill as nd
from nas_distill.costs.budget import Budget
from nas_distill.engine.survey import Candidate, Survey
from nas_distill.pruning.inheritance import CachedPlan
from nas_distill.pruning.plan import Cut, Plan, Unpruned
from nas_distill.runs.folder import RunFolder
from nas_distill.study import cutting, pipeline
from nas_distill.study.cutting import budget_advice, describe_cutting
from nas_distill.study.interruption import InterruptedSearchError
from nas_distill.study.observer import Silent
from nas_distill.study.start import prepare
from nas_distill.utils.errors import BudgetError, ConfigError, RunError, SpaceError
from tests.study.conftest import QUICK, tensors

BUDGET = {"flops": "40%"}


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


class Network(nn.Module):
    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth)))
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).amax((2, 3)))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    x, y = tensors()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def data() -> nd.Dataset:
    return nd.Dataset.from_tensors(*tensors(), val=0.2)


def prepared(teacher: nn.Module, data: nd.Dataset, space: Any) -> Any:
    return prepare(None, teacher=teacher, data=data, space=space, budget=BUDGET, settings=dict(QUICK))[0]


def test_a_search_with_a_teacher_from_python_completes(teacher: nn.Module, data: nd.Dataset, tmp_path: Path) -> None:
    space = {"from_teacher": {"start": "both", "multiple": 2, "samples": 64}}
    settings = {**QUICK, "score": {"epochs": 1, "batch_size": 32, "rungs": [0, 1]}}
    run = nd.search(teacher=teacher, data=data, space=space, budget=BUDGET, folder=tmp_path / "run", **settings)
    assert run.finished
    trained = [record for record in run.records if record.trained]
    assert len(trained) == QUICK["trials"]
    assert all(record.reports[0].step == 0 for record in trained)
    with pytest.warns(UserWarning, match="loaded as a graph"):
        module = nd.load_student(run.best().student().folder)
    assert module(data.batch("val", torch.arange(3))[0]).shape == (3, 4)
    again = nd.open_run(run.folder.path, teacher=teacher, data=data)
    assert again.best().distill(epochs=1).folder.exists()
    with pytest.raises(RunError, match="no library of blocks"):
        again.assemble()


def not_to_be_found(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was found before")


class Leaves(Silent):
    """An observer that stops a search at the start of a phase."""

    def __init__(self, phase: str) -> None:
        self.stops_at = phase

    def phase(self, name: str) -> None:
        if name == self.stops_at:
            raise KeyboardInterrupt


@pytest.fixture
def stopped(teacher: nn.Module, data: nd.Dataset, tmp_path: Path) -> dict[str, Any]:
    """Arguments of a search that was stopped before any training."""
    space = {"from_teacher": {"multiple": 2, "samples": 64, "depth": "redundancy"}}
    given = {"teacher": teacher, "data": data, "space": space, "budget": BUDGET, "folder": tmp_path / "run", **QUICK}
    with pytest.raises(InterruptedSearchError):
        nd.search(**given, observer=Leaves("search"))
    return given


def test_the_pruning_plan_is_found_once_per_run(stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = prepared(stopped["teacher"], stopped["data"], stopped["space"])
    for name in ("find_plan", "depth_order"):
        monkeypatch.setattr(cutting, name, not_to_be_found)
    with pytest.raises(InterruptedSearchError):
        nd.search(**stopped, resume=True, observer=Leaves("export"))
    run = nd.open_run(stopped["folder"], teacher=stopped["teacher"], data=stopped["data"])
    assert sum(record.trained for record in run.records) == QUICK["trials"]
    assert run.problem.cutting is not None
    assert run.problem.cutting.cached == found.cutting.cached
    assert run.problem.space.fingerprint == found.space.fingerprint
    with pytest.raises(AssertionError, match="found before"):
        nd.search(**{**stopped, "folder": stopped["folder"].with_name("other")})


@pytest.mark.parametrize("what", ["missing", "damaged", "another teacher's"])
def test_a_plan_of_another_teacher_is_found_again(
    stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    file = RunFolder(stopped["folder"]).plan
    kept = file.read_bytes()
    if what == "missing":
        file.unlink()
    elif what == "damaged":
        file.write_bytes(kept[: len(kept) // 2])
    else:
        other = prepared(Network(depth=3).eval(), stopped["data"], stopped["space"]).cutting
        cutting.cache_plan(other, file)
        assert file.read_bytes() != kept
    found = []

    def find_plan(*given: Any, **options: Any) -> Plan:
        found.append(given)
        return find_again(*given, **options)

    find_again = cutting.find_plan
    monkeypatch.setattr(cutting, "find_plan", find_plan)
    opened = nd.open_run(stopped["folder"], teacher=stopped["teacher"], data=stopped["data"]).problem.cutting
    assert opened is not None
    assert (len(found), len(opened.plan.blocks)) == (1, 2)
    with pytest.raises(InterruptedSearchError):
        nd.search(**stopped, resume=True, observer=Leaves("search"))
    assert len(found) == 2
    assert file.read_bytes() == kept


def test_a_search_without_feasible_candidates_leaves_no_plan(
    teacher: nn.Module, data: nd.Dataset, tmp_path: Path
) -> None:
    given = {"teacher": teacher, "data": data, "space": "from_teacher", "folder": tmp_path / "run", **QUICK}
    with pytest.raises(BudgetError):
        nd.search(**given, budget={"flops": 1})
    assert not (tmp_path / "run").exists()


def test_students_start_from_the_teachers_weights(teacher: nn.Module, data: nd.Dataset) -> None:
    problem = prepared(teacher, data, {"from_teacher": {"multiple": 2, "samples": 64}})
    largest = problem.space.largest()
    student = problem.space.build(largest, input_shape=problem.input_shape, num_classes=4)
    x = data.batch("val", torch.arange(8))[0]
    assert not torch.allclose(student.eval()(x), teacher(x))
    weights = problem.student_builder().weights
    assert weights is not None
    weights.fill(student, largest)
    own = dict(teacher.named_parameters())
    assert all(torch.equal(weight, own[name]) for name, weight in student.named_parameters())


def test_wider_students_contain_the_units_of_narrower_ones(teacher: nn.Module, data: nd.Dataset) -> None:
    inheritance = prepared(teacher, data, {"from_teacher": {"multiple": 2, "samples": 64}}).cutting.inheritance
    narrow, wide = (
        inheritance.pruned_teacher(Cut.of(inheritance.plan, {inheritance.plan.shared[0].name: width})).stem.weight
        for width in (4, 8)
    )
    assert all(any(torch.equal(one, other) for other in wide) for one in narrow)


def test_the_default_sampler_depends_on_where_the_space_is_from(teacher: nn.Module, data: nd.Dataset) -> None:
    def sampler(space: Any, **search: Any) -> str:
        settings = {key: value for key, value in QUICK.items() if key != "sampler"} | search
        problem, _ = prepare(None, teacher=teacher, data=data, space=space, budget=BUDGET, settings=settings)
        return str(problem.config.search.sampler.name)

    cut = {"from_teacher": {"multiple": 2, "samples": 64}}
    assert sampler(cut) == "tpe"
    assert sampler("mbconv") == "known_cost"
    assert sampler(cut, sampler="known_cost") == "known_cost"


def test_random_starts_inherit_no_weights(teacher: nn.Module, data: nd.Dataset) -> None:
    assert prepared(teacher, data, {"from_teacher": {"start": "random"}}).student_builder().weights is None


def test_importance_is_part_of_the_identity_of_scores(teacher: nn.Module, data: nd.Dataset) -> None:
    one, other = (
        prepared(teacher, data, {"from_teacher": {"importance": importance}}).identity
        for importance in ("taylor", "magnitude")
    )
    assert {section for section in one if one[section] != other[section]} == {"inheritance"}


def test_candidates_can_be_scored_without_training(teacher: nn.Module, data: nd.Dataset, tmp_path: Path) -> None:
    space = {"from_teacher": {"multiple": 2, "samples": 64}}
    settings = {**QUICK, "score": {"batch_size": 32, "rungs": [0]}}
    given = {"teacher": teacher, "data": data, "budget": BUDGET, "folder": tmp_path / "run", **settings}
    run = nd.search(space=space, **given)
    judged = [record for record in run.records if record.trained]
    assert len(judged) == QUICK["trials"]
    assert all(record.reports.keys() == {0} and record.reports[0].step == 0 for record in judged)
    assert run.finished
    assert run.best().student().folder.exists()
    for other in ({"from_teacher": {"start": "both"}}, "mbconv"):
        with pytest.raises(ConfigError, match=r"score.rungs: \[0\]"):
            nd.search(space=other, **{**given, "folder": tmp_path / "other"})


@pytest.mark.parametrize(
    ("space", "error", "said"),
    [
        (
            {"from_teacher": {"width": [1]}},
            ConfigError,
            "space: from_teacher: unknown key 'width'; did you mean 'widths'",
        ),
        ({"from_teacher": 3}, ConfigError, "'from_teacher' maps keys to values"),
        ({"from_teacher": {}, "builder": "a:b"}, ConfigError, "'builder' cannot be combined with 'from_teacher'"),
        ({"from_teacher": {"widths": [0.5, 0.25]}}, ConfigError, "widths must rise"),
        ({"from_teacher": {"kinds": ["separate"]}}, SpaceError, "did you mean 'separable'"),
    ],
)
def test_invalid_settings_are_refused(teacher: nn.Module, data: nd.Dataset, space: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        prepared(teacher, data, space)


def test_students_of_a_shipped_teacher_are_built_by_its_builder() -> None:
    problem = prepare(
        None, teacher="fashion-resnet", data="fashion-mnist", space="from_teacher", budget=BUDGET, settings={}
    )[0]
    described = problem.space.to_dict()
    assert described["builder"] == "nas_distill.pruning.build:build"
    assert described["arguments"]["teacher"] == "nas_distill.models.resnet:build"


class Listener(Silent):
    """An observer that records notes, phases and the first step of each phase."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def phase(self, name: str) -> None:
        self.heard.append(name)

    def note(self, text: str) -> None:
        self.heard.append(text)

    def step(self, done: int, total: int, text: str = "") -> None:
        if self.heard[-1] != "step":
            self.heard.append("step")


@pytest.mark.parametrize("strategy", ["blockwise", "hybrid"])
def test_candidates_are_assembled_from_distilled_blocks(
    teacher: nn.Module, data: nd.Dataset, tmp_path: Path, strategy: str
) -> None:
    settings = {**QUICK, "trials": 5, "strategy": strategy, "seeds": 1}
    listener = Listener()
    run = nd.search(
        teacher=teacher,
        data=data,
        space={"from_teacher": {"multiple": 2, "samples": 64}},
        budget=BUDGET,
        folder=tmp_path / "run",
        blockwise={"epochs": 0.5, "heldout": 32, "batch_size": 32, "trunk": [0.5, 1], "solutions": 3},
        observer=listener,
        **settings,
    )
    count = run.metadata.blocks.alternatives
    began = listener.heard.index("blockwise distillation")
    sentence, following = listener.heard[began + 1 : began + 3]
    assert sentence.startswith(f"{count} alternatives of 2 blocks")
    assert following == "step"
    origins = [record.origin for record in run.records if record.trained]
    count = origins.count("assembled")
    assert 2 <= count <= 3
    assert origins[:count] == ["assembled"] * count
    assert (len(origins) == 5) == (strategy == "hybrid")
    assert set(origins[count:]) <= ({"first_candidate", "sampler"} if strategy == "hybrid" else set())
    assembled = [record for record in run.records if record.origin == "assembled"]
    limit = run.budget.limits["flops"].high
    assert limit is not None
    assert all(record.costs["flops"] <= limit for record in assembled)
    again = run.assemble({"flops": "20%"}, count=2)
    assert again
    for entry in again:
        assert entry.costs["flops"] == pytest.approx(entry.predicted["flops"])
        assert entry.costs["flops"] <= limit / 2
    with pytest.raises(BudgetError, match="latency_ms"):
        run.assemble({"latency_ms": 1.0})


def test_blockwise_strategies_need_a_space_from_the_teacher(data: nd.Dataset, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="'hybrid' assembles students"):
        prepare(None, **{**given, "budget": BUDGET}, settings={**QUICK, "strategy": "hybrid"})


def test_groups_and_unpruned_modules_are_described(teacher: nn.Module, data: nd.Dataset) -> None:
    found = prepared(teacher, data, "from_teacher").cutting
    told = describe_cutting(found)
    assert "3 groups (3 of channels), 1 shared between its 2 blocks, of which 2 can be removed" in told[0]
    plan = replace(
        found.plan, unpruned=(Unpruned("head", "its units cannot be told apart"), Unpruned("", "it counts them"))
    )
    assert (
        "head (its units cannot be told apart); the network (it counts them)"
        in (describe_cutting(replace(found, cached=CachedPlan(plan, None)))[1])
    )
    assert describe_cutting(None) == []


class Chain(nn.Module):
    """A network of linear layers only, without a backbone of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(x.flatten(1))))


def test_a_teacher_without_a_backbone_is_searched_without_blocks(data: nd.Dataset, tmp_path: Path) -> None:
    told = Listener()
    space = {"from_teacher": {"multiple": 2, "samples": 64}}
    run = nd.search(
        teacher=Chain(), data=data, space=space, folder=tmp_path / "run", observer=told, **{**QUICK, "trials": 2}
    )
    assert any("No backbone of blocks" in sentence and "blocks: [...]" in sentence for sentence in told.heard)
    assert list(run.trials()["state"]).count("complete") == 2
    with pytest.raises(ConfigError, match="no backbone of blocks"):
        nd.search(teacher=Chain(), data=data, space=space, **{**QUICK, "strategy": "blockwise"})


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 0.05),
        ({"reconstruct": False}, 0.01),
        ({"start": "both", "reconstruct": False}, 0.05),
        ({"start": "random"}, 0.1),
    ],
)
def test_learning_rates_depend_on_the_initial_weights(
    teacher: nn.Module, data: nd.Dataset, options: dict[str, Any], rate: float
) -> None:
    space = {"from_teacher": options}
    found = prepared(teacher, data, space)
    assert found.config.score.training.optimizer.lr == found.config.final.training.optimizer.lr == rate
    notes = [note for note in found.notes if "Learning rate" in note]
    assert bool(notes) is (rate != 0.1)
    assert all(f"score and final: {rate}" in note for note in notes)
    own = {**QUICK, "score": {"optimizer": {"lr": 0.2}}, "final": {"optimizer": {"name": "adamw", "lr": 0.002}}}
    spelt = prepare(None, teacher=teacher, data=data, space=space, settings=own)[0]
    assert (spelt.config.score.training.optimizer.lr, spelt.config.final.training.optimizer.lr) == (0.2, 0.002)
    assert spelt.notes == ()


def test_an_infeasible_budget_is_reported_before_the_teacher_runs(
    teacher: nn.Module, data: nd.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher looks at the data")

    monkeypatch.setattr(pipeline, "predict_logits", looks)
    monkeypatch.setattr(pipeline, "teacher_signal", looks)
    place = tmp_path / "run"
    with pytest.raises(BudgetError, match="binds"):
        nd.search(teacher=teacher, data=data, space="from_teacher", budget={"flops": 1}, folder=place, **QUICK)


def test_phases_that_run_the_teacher_are_announced_first(
    teacher: nn.Module, data: nd.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, begun = Listener(), {}

    def noting(module: Any, name: str) -> None:
        function = getattr(module, name)

        def noted(*arguments: Any, **keywords: Any) -> Any:
            begun[name] = listener.heard[-1]
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, noted)

    noting(pipeline, "predict_logits")
    noting(cutting, "make_inheritance")
    settings = {**QUICK, "trials": 1, "score": {"rungs": [0]}}
    run = nd.search(
        teacher=teacher, data=data, space="from_teacher", folder=tmp_path / "run", observer=listener, **settings
    )
    validation, importance = "teacher validation", "unit importance"
    assert begun == {"predict_logits": validation, "make_inheritance": importance}
    assert listener.heard[listener.heard.index(validation) + 1] == "step"
    assert {validation, importance} <= set(run.report().savings.phases)


class Fixed(Network):
    """A network with the width of its stem as a constant in its code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).reshape(-1, 16, 64).amax(2))


def test_a_run_lists_unpruned_modules(data: nd.Dataset, tmp_path: Path) -> None:
    space = {"from_teacher": {"multiple": 2, "samples": 64}}
    run = nd.search(teacher=Fixed(), data=data, space=space, folder=tmp_path / "run", **{**QUICK, "trials": 2})
    left = nd.open_run(run.folder.path).unpruned()
    assert list(left["module"]) == ["stem"]
    assert "does not run" in left["reason"][0]


def test_a_space_with_almost_no_feasible_candidate_gets_advice(teacher: nn.Module, data: nd.Dataset) -> None:
    found = prepared(teacher, data, {"from_teacher": {"multiple": 4}})
    costs = [Candidate(found.space.largest(), {"flops": float(cost)}) for cost in range(100, 0, -1)]
    budget = Budget.parse({"flops": 1})
    scarce = Survey(tuple(costs[::-1]), (costs[-1],), (), 0.01, {"flops": 0.01}, 0.1)
    told = str(budget_advice(scarce, budget, found.cutting))
    assert "1.0 % of sampled candidates" in told
    assert "'multiple' below 4" in told
    assert "cheaper values" in str(budget_advice(scarce, budget, None))
    assert budget_advice(replace(scarce, share=0.5), budget, found.cutting) is None
    floor = Budget.parse({"flops": {"min": 100}})
    assert "larger shares" in str(budget_advice(replace(scarce, shares={"flops": 0.01}), floor, found.cutting))
