"""kill -9 of the search itself, at any moment: resumed, it has lost nothing and done nothing twice."""

import random
import signal

import pytest
from fault_support import accounted, silent_about_ray
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS = 6


def kill_at_random_moments(launch, file, moments, kills):
    """Launch and kill, until it was killed so often or ended by itself; return how often it was killed."""
    for killed in range(kills):
        driver = launch(file, "--resume", "--quiet")
        before = driver.journal.stat().st_size if driver.journal.exists() else 0
        growth = moments.randint(1, 6000)
        driver.wait_until(
            lambda driver=driver, wanted=before + growth: (
                driver.journal.exists() and driver.journal.stat().st_size >= wanted
            )
        )
        driver.kill()
        code, out, errors = driver.end()
        assert silent_about_ray(out, errors)
        if code == 0:
            return killed
        assert code == -signal.SIGKILL
    return kills


def scores(run):
    """What became of each proposal, in order, however often it was begun."""
    latest = {record.index: record for record in run.records}
    return [(latest[index].architecture, latest[index].state, latest[index].rungs) for index in sorted(latest)]


def test_an_inline_search_ends_as_if_it_had_never_been_killed(launch, search_file, tmp_path):
    settings = {"search": {"trials": TRIALS, "backend": "inline", "sampler": "tpe"}, "final": {"epochs": 2}}
    file = search_file("killed.yaml", **settings)
    assert kill_at_random_moments(launch, file, random.Random(1), kills=5) >= 3
    code, _, errors = launch(file, "--resume").end()
    assert (code, errors) == (0, "")
    run = accounted(tmp_path / "killed", TRIALS)

    untouched = launch(search_file("untouched.yaml", **settings))
    assert untouched.end()[0] == 0
    other = accounted(tmp_path / "untouched", TRIALS)
    assert scores(run) == scores(other)
    assert [record.architecture for record in run.front_records()] == [
        record.architecture for record in other.front_records()
    ]
    assert [entry.full for entry in run.finalists()] == [entry.full for entry in other.finalists()]
    one, two = (load_file(each.best().student().folder / "model.safetensors") for each in (run, other))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)


def test_a_search_on_workers_loses_nothing(launch, search_file, tmp_path):
    file = search_file(
        "killed.yaml",
        search={"trials": TRIALS, "backend": "tune", "workers": 2, "sampler": "tpe"},
        score={"epochs": 3},
        final={"epochs": 2},
    )
    assert kill_at_random_moments(launch, file, random.Random(2), kills=3) >= 2
    code, out, errors = launch(file, "--resume").end()
    assert (code, errors) == (0, "")
    assert silent_about_ray(out, errors)
    run = accounted(tmp_path / "killed", TRIALS)
    assert all(record.state != "failed" for record in run.records)
