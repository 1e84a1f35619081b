"""Trainings of a calibration: recipes, order, results and resumption."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.calibration.sampling import (
    CalibrationSource,
    Network,
    draw_networks,
    halving_order,
    log_spaced_indices,
    recipe,
    standard_recipes,
)
from nas_distill.calibration.trainings import TrainingTable
from nas_distill.config import TrainingConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.work import Outcome, RungResult
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.seeds import numpy_rng

NETWORKS = [
    Network(f"net-{width:02d}", Architecture({"width": width}), {"flops": 10.0 * width, "params": 5.0})
    for width in (1, 2)
]
RECIPES = standard_recipes(TrainingConfig(epochs=3), TrainingConfig(epochs=6), [1.0, 3.0])


@pytest.fixture
def table(tmp_path):
    return TrainingTable(tmp_path / "t.csv")


@pytest.fixture
def make(table, tmp_path):
    def made(**settings):
        return CalibrationSource(NETWORKS, RECIPES, table, tmp_path / "checkpoints", seed=0, **settings)

    return made


class Trains:
    """An evaluator whose quality is the rung; ``on_rung`` may raise, or stop its source."""

    def __init__(self, on_rung=lambda work, rung: None):
        self.on_rung = on_rung

    def start(self, work):
        self.work, self.rung = work, -1
        work.checkpoint.mkdir(parents=True, exist_ok=True)
        return self

    def next_rung(self):
        self.rung += 1
        self.on_rung(self.work, self.rung)
        return RungResult(self.rung, self.rung, float(self.rung), 1.0, {"last": 0.5, "loss": 2.0})

    def close(self):
        pass


def test_the_standard_recipes_have_all_kinds():
    kinds = {entry.kind: entry for entry in RECIPES}
    assert set(kinds) == {"full", "full-labels", "kd@1", "kd@3", "ce@1", "ce@3", "kd-constant"}
    assert kinds["full"].readings == kinds["full-labels"].readings == (1.0, 3.0, 6)
    assert kinds["kd@3"].readings == kinds["kd-constant"].readings == (1.0, 3.0)
    assert kinds["kd@1"].readings == (1.0,)
    assert kinds["full"].seeds == 2
    assert {kind for kind, entry in kinds.items() if not entry.teacher} == {"ce@1", "ce@3", "full-labels"}
    assert {kind for kind, entry in kinds.items() if entry.training.decay == "constant"} == {"kd-constant"}
    assert kinds["kd@1"].training.epochs == 1.0


def test_a_budget_beyond_the_training_is_not_a_reading():
    assert recipe("some", TrainingConfig(epochs=2), [1, 2, 3]).readings == (1, 2)


def test_all_trainings_of_a_network_come_before_the_next_network(make):
    source = make()
    works = []
    while (work := source.next()) is not None:
        works.append(work)
    assert len(works) == source.total == 2 * 8
    assert [work.key.startswith("net-01-") for work in works] == [True] * 8 + [False] * 8
    assert len({work.key for work in works}) == len({work.checkpoint for work in works}) == 16
    assert all(work.watch and work.rungs[-1] == 1 and work.output is None for work in works)
    seeds = {work.key: work.seed for work in works}
    assert seeds["net-01-full-0"] == seeds["net-02-full-0"] == seeds["net-01-full-labels-0"]
    assert seeds["net-01-full-0"] != seeds["net-01-full-1"]
    assert seeds["net-01-kd@1-0"] == seeds["net-01-ce@3-0"] not in (seeds["net-01-full-0"], seeds["net-01-full-1"])
    full = next(work for work in works if work.key == "net-01-full-0")
    assert full.rungs == pytest.approx((1 / 6, 1 / 2, 1))


def test_finished_trainings_are_in_the_table_and_not_repeated(make, table, tmp_path):
    progress = []
    InProcessBackend().run(make(on_done=lambda *done: progress.append(done)), Trains())
    assert progress[-1][:2] == (16, 16)
    full = [entry for entry in table.readings if entry.training == ("net-02", "full", 1)]
    assert [(entry.epochs, entry.quality, entry.last, entry.loss) for entry in full] == [
        (1.0, 0.0, 0.5, 2.0), (3.0, 1.0, 0.5, 2.0), (6.0, 2.0, 0.5, 2.0)
    ]  # fmt: skip
    assert (full[0].flops, full[0].params) == (20.0, 5.0)
    assert not list((tmp_path / "checkpoints").iterdir())
    again = make()
    assert again.next() is None
    assert (again.done, again.total) == (16, 16)


def test_a_failed_training_is_recorded_with_its_cause_and_not_repeated(make, table):
    def fail(work, rung):
        if work.key == "net-01-kd@3-0" and rung == 1:
            raise ValueError("no luck")

    InProcessBackend().run(make(), Trains(fail))
    (lost,) = [entry for entry in table.readings if entry.cause]
    assert lost.training == ("net-01", "kd@3", 0)
    assert lost.cause == "ValueError: no luck"
    assert math.isnan(lost.quality)
    assert make().next() is None


def test_an_interrupted_training_starts_again(make, table, tmp_path):
    source = make()
    InProcessBackend().run(source, Trains(lambda work, rung: work.key == "net-01-full-1" and source.stop()))
    assert [entry.training[2] for entry in table.readings] == [0, 0, 0]
    (tmp_path / "checkpoints" / "net-01-full-1").mkdir(exist_ok=True)
    again = make()
    assert not (tmp_path / "checkpoints").exists()
    assert again.next().key == "net-01-full-1"
    assert again.done == 1


def test_a_rung_reported_again_by_a_replaced_worker_is_recorded_once(make, table):
    source = make()
    work = source.next()
    for rung in (0, 1, 1, 2):
        assert source.report(work.key, RungResult(rung, rung, 0.1 * rung, 1.0))
    source.finish(work.key, Outcome("complete"))
    assert [entry.quality for entry in table.readings] == [0.0, 0.1, 0.2]


@given(st.integers(0, 60))
def test_every_prefix_of_the_halving_order_is_spread(count):
    order = halving_order(count)
    assert sorted(order) == list(range(count))
    for length in range(2, count + 1):
        gaps = [high - low for low, high in zip(sorted(order[:length]), sorted(order[:length])[1:])]
        assert max(gaps) <= 2 * min(gaps) + 1


def test_log_spaced_indices_are_even_on_a_log_scale():
    values = [1, 1.1, 1.2, 10, 11, 100, 990, 1000]
    assert [values[index] for index in log_spaced_indices(values, 4)] == [1, 10, 100, 1000]
    assert log_spaced_indices(values, 20) == list(range(8))
    assert log_spaced_indices([], 3) == []


def test_networks_are_drawn_within_the_budget_and_named_by_rising_cost():
    space = SearchSpace.from_dict(
        {"name": "my space", "builder": "some:build", "parameters": {"width": {"int": [1, 100]}}}
    )

    def costs(architecture):
        if architecture.to_dict()["width"] == 3:
            raise ValueError("no such thing")
        return {"flops": float(architecture.to_dict()["width"]), "params": 1.0}

    def draw(count):
        pricing = Pricing(costs, Budget.parse({"flops": 50}))
        return draw_networks(space, pricing, count=count, by="flops", rng=numpy_rng(0, "test"))

    networks = draw(8)
    assert len(networks) == 8
    assert [network.name for network in draw(8)] == [network.name for network in networks]
    ordered = sorted(networks, key=lambda network: network.name)
    paid = [network.costs["flops"] for network in ordered]
    assert paid == sorted(set(paid))
    assert paid[0] == 1
    assert 40 <= paid[-1] <= 50
    assert {network.name for network in networks[:2]} == {"my-space-00", "my-space-07"}
    assert not any(network.architecture.to_dict()["width"] == 3 for network in draw(45))
