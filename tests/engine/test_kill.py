"""Real processes, really killed: nothing requested is lost, nothing is done twice, nothing is left in flight."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import read_study
from nas_distill.runs.records import read_records
from nas_distill.utils.errors import RunError

TRIALS = 60

SEARCH = """
import json, sys
from pathlib import Path

from nas_distill.config import ScoreConfig, SearchConfig
from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import open_journal
from nas_distill.engine.backends.inline import InProcessBackend
from nas_distill.engine.controller import Controller
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.work import RungResult
from nas_distill.spaces import SearchSpace


class Instant:
    def start(self, work):
        return Run(work)


class Run:
    def __init__(self, work):
        self.work, self.file = work, work.checkpoint / "rung"
        work.checkpoint.mkdir(parents=True, exist_ok=True)
        self.rung = int(self.file.read_text() or 0) if self.file.exists() else 0

    def next_rung(self):
        rung, values = self.rung, self.work.architecture.values
        self.file.write_text(str(rung))
        self.rung += 1
        quality = (values["width"] / 64 + int(self.work.architecture.hash[:4], 16) / 16**4) / 3
        return RungResult(rung, rung + 1, quality * (1 + rung) / 3, 0.01 * (rung + 1))

    def close(self):
        pass


def costs(architecture):
    values = architecture.values
    return {"flops": float(values["width"] * values["depth"] * values["kernel"])}


search = SearchConfig(trials=int(sys.argv[2]), seeds=3, sampler="random")
objectives = Objectives.from_config(search)
folder = RunFolder(sys.argv[1])
print("ready", flush=True)
with folder.lock():
    controller = Controller(
        open_journal(folder, directions=objectives.directions, names=objectives.names),
        folder,
        space=SearchSpace.from_dict(
            {"width": {"int": [1, 64]}, "depth": {"int": [1, 9]}, "kernel": [3, 5, 7]}, builder="builtins:dict"
        ),
        pricing=Pricing(costs, Budget.parse({"flops": 2000})),
        search=search,
        score=ScoreConfig(),
        seed=1,
    )
    InProcessBackend().run(controller, Instant())
    print(json.dumps(controller.conclude().done), flush=True)
"""


def launch(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", SEARCH, str(path), str(TRIALS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after_growth(process: subprocess.Popen[str], journal: Path, growth: int) -> bool:
    """Kill the process once it has written so much more of its journal; False if it ended before."""
    before = journal.stat().st_size if journal.exists() else 0
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size >= before + growth:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.0005)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_and_resume(path: Path, kills: int) -> None:
    folder, moments = RunFolder(path), random.Random(kills)
    for _ in range(kills):
        process = launch(path)
        assert kill_after_growth(process, folder.journal, moments.randint(1, 5000)), "it ended before it was killed"
    output, errors = launch(path).communicate()
    assert errors == ""
    assert json.loads(output.splitlines()[-1]) == TRIALS

    records = read_records(read_study(folder))
    trained = [record for record in records if record.trained]
    assert len(trained) == TRIALS
    assert len({record.architecture for record in trained}) == TRIALS
    assert not [record for record in records if record.state in ("running", "failed")]
    interrupted = [record for record in records if record.state == "interrupted"]
    assert {record.number for record in interrupted} <= {record.retry_of for record in records}
    assert not list(folder.checkpoints.iterdir())

    untouched = RunFolder(path.with_name("untouched"))
    launch(untouched.path).communicate()
    assert proposals(folder) == proposals(untouched)


def proposals(folder: RunFolder) -> list[object]:
    latest = {record.index: record for record in read_records(read_study(folder))}
    return [(latest[index].architecture, latest[index].state, latest[index].rungs) for index in sorted(latest)]


def test_a_driver_killed_three_times_loses_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "run", kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_driver_killed_at_twenty_random_moments_loses_nothing(tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "run", kills=20)


def test_a_run_can_be_read_while_it_is_written_and_a_second_search_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    writer = launch(folder.path)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        seen: list[int] = []
        refused = 0
        while writer.poll() is None:
            if folder.exists and folder.journal.stat().st_size > 1000:
                seen.append(len(read_records(read_study(folder))))
                try:
                    with folder.lock():
                        pass
                except RunError as error:
                    refused += f"process {writer.pid}" in str(error)
        assert seen == sorted(seen)
        assert len(set(seen)) > 3
        assert refused > 0
    finally:
        writer.kill()
        writer.communicate()
