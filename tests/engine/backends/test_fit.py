from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from backend_toys import Script, make_work

from nas_distill.engine.backends.relay import Relay
from nas_distill.engine.backends.tune_state import Fit
from nas_distill.engine.backends.worker import Message
from nas_distill.engine.death import fault_file
from nas_distill.engine.work import Outcome, RungResult


class GoneError(Exception):
    def __init__(self, actor_id: str) -> None:
        super().__init__(actor_id)
        self.actor_id = actor_id


@dataclass
class FakeTrial:
    trial_id: str
    config: dict[str, Any]
    pickled_error_file: str
    status: str = "RUNNING"
    temporary_state: Any = field(default_factory=lambda: SimpleNamespace(ray_actor=None))


def make(folder: Path, count: int = 1, retries: int = 1) -> tuple[Script, Fit, list[FakeTrial], list[Any]]:
    source = Script([make_work(folder, f"w{i}", rungs=2) for i in range(count)])
    relay, killed = Relay(source, retries=retries), []
    fit = Fit(relay, faults=folder, began=100.0, kill=killed.append)
    trials = []
    for _ in range(count):
        work = relay.next()
        assert work is not None
        trials.append(FakeTrial(f"id of {work.key}", {"key": work.key}, str(folder / f"{work.key}.pkl")))
        fit.add(trials[-1])
    return source, fit, trials, killed


def die(fit: Fit, trial: FakeTrial, actor_id: str) -> None:
    Path(trial.pickled_error_file).write_bytes(pickle.dumps(GoneError(actor_id)))
    fit.died(trial)


def test_a_trial_stands_for_a_work(tmp_path: Path) -> None:
    _, fit, trials, _ = make(tmp_path, 2)
    assert [fit.key(trial.trial_id) for trial in trials] == ["w0", "w1"]


def test_the_first_word_ends_the_start_up(tmp_path: Path) -> None:
    _, fit, _, _ = make(tmp_path)
    assert fit.startup_seconds is None
    assert fit.take(Message("w0", 103.5, RungResult(0, 1, 0.5, 1.0)))
    assert not fit.take(Message("w0", 110.0, RungResult(1, 2, 0.5, 2.0)))
    assert fit.startup_seconds == 3.5


def test_a_failure_ends_its_work(tmp_path: Path) -> None:
    source, fit, _, _ = make(tmp_path)
    assert not fit.take(Message("w0", 103.5, cause="it cannot be built"))
    assert source.outcomes == {"w0": Outcome("failed", "it cannot be built")}


def test_a_death_that_is_reported_twice_counts_once(tmp_path: Path) -> None:
    source, fit, (trial,), _ = make(tmp_path)
    die(fit, trial, "a")
    die(fit, trial, "a")
    assert source.outcomes == {}
    die(fit, trial, "b")
    assert source.outcomes == {"w0": Outcome("failed", "worker died (GoneError: b), 2 times")}


def test_deaths_of_which_nothing_is_known_count_each(tmp_path: Path) -> None:
    source, fit, (trial,), _ = make(tmp_path)
    fit.died(trial)
    fit.died(trial)
    assert source.outcomes == {"w0": Outcome("failed", "worker died (Ray does not say why), 2 times")}


def test_the_trace_of_a_crash_is_its_cause(tmp_path: Path) -> None:
    source, fit, (trial,), _ = make(tmp_path, retries=0)
    fault_file(tmp_path, "w0").write_text("Fatal Python error: Bus error\n")
    die(fit, trial, "a")
    assert source.outcomes == {"w0": Outcome("failed", "worker died (Bus error)")}


def test_only_running_workers_are_killed_and_a_dead_one_is_ignored(tmp_path: Path) -> None:
    _, fit, trials, killed = make(tmp_path, 3)
    trials[0].temporary_state.ray_actor = "one"
    trials[1].temporary_state.ray_actor = "ended"
    trials[1].status = "TERMINATED"
    fit.kill_workers()
    assert killed == ["one"]

    def fail(actor: Any) -> None:
        raise ValueError(actor)

    fit._kill = fail
    fit.kill_workers()


def test_it_is_pickled_without_its_source(tmp_path: Path) -> None:
    _, fit, _, _ = make(tmp_path)
    assert vars(pickle.loads(pickle.dumps(fit))) == {}
