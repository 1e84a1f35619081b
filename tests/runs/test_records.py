import csv
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import open_journal, read_study
from nas_distill.runs.pareto import front_hypervolume, front_records
from nas_distill.runs.records import Rung, TrialRecord, read_records, to_frame, write_csv
from nas_distill.utils.errors import RunError

STOP = {"dominated_by": 0, "dominating_quality": 0.6, "margin": 0.01, "reason": "trial 0 costs no more"}


def rung(quality: float, share: float, stop: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"quality": quality, "step": round(90 * share), "seconds": 20 * share, "share": share} | (
        {"stop": stop} if stop else {}
    )


def trial(width: int, state: TrialState, values: list[float] | None = None, **attrs: Any) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=state,
        values=values,
        params={"width": width},
        distributions={"width": optuna.distributions.IntDistribution(8, 64, step=8)},
        user_attrs={
            "architecture": {"width": width},
            "origin": "first_candidate",
            "costs": {"flops": 100.0 * width},
            **attrs,
        },
    )


@pytest.fixture
def records(tmp_path: Path) -> list[TrialRecord]:
    whole = {"rung:0": rung(0.6, 0.25), "rung:1": rung(0.7, 1.0)}
    trials = [
        trial(8, TrialState.COMPLETE, [0.7, 800.0], index=0, key="t00000", **whole),
        trial(16, TrialState.PRUNED, index=1, key="t00001", **{"rung:0": rung(0.5, 0.25, STOP)}),
        trial(64, TrialState.PRUNED, index=2, key="t00002", violations={"flops": 0.5}),
        trial(8, TrialState.COMPLETE, [0.7, 800.0], index=3, key="t00003", duplicate_of=0),
        trial(24, TrialState.FAIL, index=4, key="t00004", cause="its quality was nan"),
        trial(32, TrialState.FAIL, index=5, key="t00005", interrupted="died", **{"rung:0": rung(0.4, 0.25)}),
        trial(32, TrialState.RUNNING, index=5, key="t00005", retry_of=5, **{"rung:0": rung(0.4, 0.25)}),
        trial(40, TrialState.COMPLETE, [0.7, 4000.0], index=6, key="t00007", **whole),
        trial(48, TrialState.COMPLETE, [0.8, 4800.0], index=7, key="t00008", **{"rung:1": rung(0.8, 1.0)}),
    ]
    folder = RunFolder(tmp_path)
    with folder.lock():
        journal = open_journal(folder, directions=["maximize", "minimize"], names=["quality", "flops"])
        for entry in trials:
            journal.add(entry)
    return read_records(read_study(folder))


def test_every_state_is_distinguished(records: list[TrialRecord]) -> None:
    assert [record.state for record in records] == [
        "complete",
        "pruned",
        "over_budget",
        "duplicate",
        "failed",
        "interrupted",
        "running",
        "complete",
        "complete",
    ]
    assert [record.number for record in records if record.trained] == [0, 1, 4, 7, 8]


def test_a_record_says_what_happened(records: list[TrialRecord]) -> None:
    complete, stopped, over, twin, failed, _, retry, *_ = records
    assert complete.rungs == {0: 0.6, 1: 0.7}
    assert complete.final_quality == complete.quality == 0.7
    assert complete.seconds == 20
    assert complete.architecture.values == {"width": 8}
    assert stopped.stop is not None
    assert (stopped.dominated_by, stopped.margin, stopped.stop.rung, stopped.stop.quality) == (0, 0.01, 0, 0.5)
    assert (stopped.seconds, stopped.seconds_saved) == (5, 15)
    assert over.violations == {"flops": 0.5}
    assert over.quality is None
    assert twin.duplicate_of == 0
    assert failed.cause == "its quality was nan"
    assert (retry.key, retry.retry_of, retry.rungs) == ("t00005", 5, {0: 0.4})
    with pytest.raises(ValueError, match="trial 1 is pruned"):
        _ = stopped.final_quality


def test_the_front_is_of_completed_candidates_by_rising_cost(records: list[TrialRecord]) -> None:
    assert [record.number for record in front_records(records, ["flops"])] == [0, 8]
    assert front_records(records[1:5], ["flops"]) == []
    assert front_hypervolume(records, ["flops"], {"flops": 8000.0}) == pytest.approx(
        front_hypervolume([records[0], records[8]], ["flops"], {"flops": 8000.0})
    )
    assert front_hypervolume([], ["flops"], {"flops": 8000.0}) == 0


def test_the_csv_has_one_line_a_trial(records: list[TrialRecord], tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    write_csv(records, path)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["trial"]) for row in rows] == list(range(9))
    assert rows[1]["dominated_by"] == "0"
    assert rows[8]["param:width"] == "48"
    assert rows[8]["quality_at_rung_0"] == ""
    write_csv([], path)
    assert path.read_text() == "trial,state,quality\n"


def test_the_frame_is_by_trial(records: list[TrialRecord]) -> None:
    frame = to_frame(records)
    assert frame.index.name == "trial"
    assert frame.loc[8, "quality"] == 0.8
    assert frame.loc[2, "flops"] == 6400
    assert len(to_frame([])) == 0


def test_a_foreign_trial_is_one_sentence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        journal = open_journal(folder, directions=["maximize"], names=["quality"])
        journal.add(create_trial(state=TrialState.FAIL))
    with pytest.raises(RunError, match="trial 0 of the journal is not one of nas_distill's"):
        read_records(read_study(folder))


@pytest.mark.parametrize(
    "wrong",
    [
        {"costs": [1]},
        {"costs": {"flops": "many"}},
        {"costs": {"flops": True}},
        {"violations": 3},
        {"index": "0"},
        {"key": 0},
        {"architecture": [8]},
        {"cause": 3},
        {"rung:0": [0.5]},
        {"rung:x": rung(0.5, 1.0)},
        {"rung:0": rung(0.5, 1.0) | {"seconds": "long"}},
        {"rung:0": rung(0.5, 1.0) | {"quality": None}},
        {"rung:0": rung(0.5, 1.0, {**STOP, "margin": "wide"})},
        {"rung:0": rung(0.5, 1.0) | {"stop": 3}},
    ],
    ids=str,
)
def test_a_wrong_type_in_a_journal_is_one_sentence(tmp_path: Path, wrong: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        journal = open_journal(folder, directions=["maximize", "minimize"], names=["quality", "flops"])
        journal.add(trial(8, TrialState.FAIL, **{"index": 0, "key": "t00000", **wrong}))
    with pytest.raises(RunError, match="trial 0 of the journal is not one of nas_distill's"):
        read_records(read_study(folder))


def test_what_is_left_continues_at_the_pace_so_far() -> None:
    assert Rung(0.5, 10, 6.0, 0.25).seconds_left == 18
    assert Rung(0.5, 40, 24.0, 1.0).seconds_left == 0
    assert Rung(0.5, 0, 2.0, 0.0).seconds_left == 0  # judged before any training
