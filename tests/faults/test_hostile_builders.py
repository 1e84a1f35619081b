"""Builders that do what no builder should: each loses its own candidate, and the search comes to its end."""

import pytest
from fault_support import accounted, press_ctrl_c, silent_about_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HOSTILE = """
import ctypes
import os
import sys
import threading
import time
from torch import nn

class Panic(BaseException):
    pass

def misbehave(act):
    print("words", act)
    if act == "thread":
        threading.Thread(target=time.sleep, args=(600,)).start()
    if act == "sys.exit":
        sys.exit(3)
    if act == "os._exit":
        os._exit(3)
    if act == "crash":
        ctypes.string_at(0)
    if act == "interrupt":
        raise KeyboardInterrupt
    if act == "panic":
        raise Panic("over and out")
    while act == "loop":
        pass

class Network(nn.Sequential):
    act = when = ""

    def forward(self, x):
        if self.when == "forward" or (self.when == "training" and self.training):
            misbehave(self.act)
        return super().forward(x)

def build(act, when, input_shape, num_classes):
    if when == "build":
        misbehave(act)
    network = Network(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))
    network.act, network.when = act, when
    return network
"""
CAUSES = {
    "sys.exit": "SystemExit: 3",
    "os._exit": "died",
    "crash": "Segmentation fault in string_at",
    "interrupt": "KeyboardInterrupt",
    "panic": "Panic: over and out",
    "loop": "longer than",
}
ACTS = ["nothing", "thread", *CAUSES]


@pytest.mark.parametrize("backend", ["inline", "tune"])
@pytest.mark.parametrize("when", ["build", "training"])
def test_each_loses_its_own_candidate(launch, search_file, tmp_path, backend, when):
    (tmp_path / "mine.py").write_text(HOSTILE, encoding="utf-8")
    search = {
        "trials": len(ACTS),
        "backend": backend,
        "sampler": "random",
        "pruning": {"rule": "none"},
        "retries": 0,
        "trial_limit_minutes": 0.25,
    }
    space = {"builder": "mine:build", "parameters": {"act": ACTS, "when": [when]}}
    file = search_file(search=search, space=space, budget={}, final={"baseline": False})
    code, out, errors = launch(file).end()
    assert (code, errors) == (0, "")
    assert silent_about_ray(out, errors)
    run = accounted(tmp_path / "small", len(ACTS))
    found = {record.architecture.values["act"]: record for record in run.records if record.trained}
    assert found["nothing"].state == found["thread"].state == "complete"
    for act, cause in CAUSES.items():
        assert found[act].state == "failed"
        assert cause in found[act].cause
        assert not {"\n", "\x1b"} & set(found[act].cause)


def test_ctrl_c_stops_a_search_whose_builder_raises_the_same(launch, search_file, tmp_path):
    (tmp_path / "mine.py").write_text(HOSTILE, encoding="utf-8")
    search = {"trials": 2, "backend": "inline", "pruning": {"rule": "none"}}
    space = {"builder": "mine:build", "parameters": {"act": ["nothing", "interrupt"], "when": ["build"]}}
    score = {"epochs": 400, "batch_size": 16, "rungs": [0.001, 1.0]}
    driver = launch(search_file(search=search, space=space, budget={}, score=score))
    assert driver.wait_until(lambda: any(record.reports for record in driver.records()))
    press_ctrl_c(driver)
    code, out, _ = driver.end()
    assert code == 130
    states = {record.architecture.values["act"]: record.state for record in driver.records()}
    assert states["nothing"] == "interrupted"
    assert silent_about_ray(out, "")
