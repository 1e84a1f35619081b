"""A search on a cluster of two nodes, of which one dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_support import Driver, accounted, silent_about_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = {"epochs": 6, "batch_size": 16}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of Ray's on this machine, of one processor each, as `ray start` begins them elsewhere."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray makes a token of it in the home folder
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


def finished(driver: Driver) -> list[Any]:
    return [record for record in driver.records() if record.trained]


def test_a_search_goes_on_when_a_node_dies(
    launch: Callable[..., Driver], search_file: Callable[..., Path], tmp_path: Path, cluster: Any
) -> None:
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    settings = {"trials": 6, "backend": "tune", "workers": 2, "pruning": {"rule": "none"}, "address": cluster.address}
    driver = launch(search_file(search=settings, score=LONG, final={"baseline": False}))

    def both_train() -> bool:
        running = [record for record in driver.records() if record.state == "running"]
        return bool(finished(driver)) and len([record for record in running if record.reports]) == 2

    assert driver.wait_until(both_train), driver.end()
    before = {record.key: (record.state, record.rungs) for record in finished(driver)}
    cluster.remove_node(other, allow_graceful=False)
    code, out, errors = driver.end()
    assert (code, errors) == (0, ""), out
    assert silent_about_ray(out, errors)
    run = accounted(tmp_path / "small", 6)
    after = {record.key: (record.state, record.rungs) for record in run.records if record.trained}
    assert before.items() <= after.items()
    assert Counter(state for state, _ in after.values()) == {"complete": 6}
    assert not (run.folder.path / ".shared").exists()
