"""An allocation that is killed or stopped: resumed, it judges the rest and proposes what it would have proposed."""

from __future__ import annotations

import json
import signal

import pytest

from nas_distill.study import open_run

pytestmark = pytest.mark.slow

SETTINGS = {
    "space": {"from_teacher": {"multiple": 1, "samples": 64}},
    "budget": {"flops": "50%"},
    "search": {"trials": 3, "backend": "inline", "workers": 2, "strategy": "allocate"},
    "allocation": {"candidates": 500, "samples": 64},
    "final": {"count": 1, "baseline": False},
}


def judged(folder):
    file = folder / "allocation.json"
    return len(json.loads(file.read_text())["divergences"]) if file.exists() else 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_allocation_continues_and_ends_as_an_undisturbed_one(launch, search_file, tmp_path, how):
    calm = search_file("calm.yaml", **SETTINGS)
    code, _, errors = launch(calm).end()
    assert (code, errors) == (0, "")
    whole = judged(tmp_path / "calm")
    file = search_file("disturbed.yaml", **SETTINGS)
    driver = launch(file)
    driver.wait_for_phase(["allocation"])
    assert driver.wait_until(lambda: judged(tmp_path / "disturbed"))
    if how == signal.SIGKILL:
        driver.kill()
    else:
        driver.process.send_signal(how)
    code, out, errors = driver.end()
    assert code != 0, out
    assert "Traceback" not in out + errors
    before = judged(tmp_path / "disturbed")
    assert 0 < before < whole
    code, out, errors = launch(file, "--resume").end()
    assert (code, errors) == (0, "")
    assert judged(tmp_path / "disturbed") == whole
    runs = [open_run(tmp_path / name) for name in ("calm", "disturbed")]
    first, second = ([record.architecture for record in run.records] for run in runs)
    assert first == second
    assert len(first) == 3
