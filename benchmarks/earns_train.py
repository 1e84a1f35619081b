"""One student of benchmarks/earns.py: made, timed, distilled and evaluated on test data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from earns_cuts import Found, find_cut, searched
from earns_jobs import FLOPS, NOTHING, Job, Settings
from earns_peer import peer_student
from earns_setting import BATCH, Setting, setting_of
from inherit_arms.prepared import LOOK, steps_left
from torch import nn

from nas_distill.allocation.search import best_by_depth
from nas_distill.config import INHERITED_LR, RECONSTRUCTED_LR, FromTeacherConfig
from nas_distill.costs.counting import count
from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.predict import predict_logits
from nas_distill.pruning.plan import Cut


def run_job(job: Job, settings: Settings, same: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make the student, time, distil and evaluate it; return a row of the page's table.

    ``same``: the row of another seed that has the same network.
    """
    torch.set_num_threads(1)
    setting = setting_of(job.teacher, job.limit, settings)
    if job.arm == "fastnas":
        peer = peer_student(job, setting, settings)
        network, rate, looks, trained = peer.network, INHERITED_LR, peer.looks, 0
        described: dict[str, Any] = {"blocks": len(setting.space.choices), "search_seconds": round(peer.seconds, 1)}
    else:
        cut = None if same is None else _cut_of(same)
        found = find_cut(job, setting) if cut is None else Found(cut)
        if found is None:
            return {**_of(job), NOTHING: True}
        network, rate, trained = setting.student(found.cut), RECONSTRUCTED_LR, found.trained
        looks = found.looks + 3 * FromTeacherConfig().samples  # importance, moments, batch-norm statistics
        described = _described(found)
    times = _times(setting, network)
    steps = steps_left(settings.images, trained + LOOK * looks, BATCH)
    began = time.monotonic()
    distiller = setting.distilled(network, steps, job.seed, rate)
    logits = predict_logits(distiller.student(), setting.data.inputs("test"))
    return {
        **_of(job),
        **count(network, setting.data.input_shape, [FLOPS, "params"]),
        **described,
        **times,
        "looks": looks,
        "trained": trained,
        "steps": distiller.total_steps,
        "training_seconds": round(time.monotonic() - began, 1),
        "validation": distiller.quality(),
        "test": accuracy(logits, setting.data.labels("test")),
    }


def _of(job: Job) -> dict[str, Any]:
    limit = job.limit
    return {"teacher": job.teacher, "share": limit.share, "cost": limit.cost, "arm": job.arm, "seed": job.seed}


def time_row(job: Job, settings: Settings, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without a time with one: its network is made again, untrained."""
    torch.set_num_threads(1)
    setting = setting_of(job.teacher, job.limit, settings)
    cut = _cut_of(row)
    if cut is None and job.arm in ("allocated", "raced"):
        runners = best_by_depth(searched(setting, job.limit.share, job.seed).runners, 1)
        cut = min(runners, key=lambda one: abs(one.divergence - row["divergence"])).cut
    elif cut is None:
        found = find_cut(job, setting)
        assert found is not None  # it was found before
        cut = found.cut
    flops = setting.costs(cut)[FLOPS]
    if flops != row[FLOPS]:
        raise SystemExit(f"{job.key}: it had {row[FLOPS]:.0f} FLOPs, and now {flops:.0f}: the teacher is another one.")
    return {**row, "cost": job.limit.cost, **_kept(cut), **_times(setting, setting.untrained(cut))}


def _cut_of(row: Mapping[str, Any]) -> Cut | None:
    kept = row.get("cut")
    return None if kept is None else Cut(kept["widths"], tuple(kept["blocks"]))


def _kept(cut: Cut) -> dict[str, Any]:
    return {"cut": {"widths": dict(cut.widths), "blocks": list(cut.blocks)}}


def _described(found: Found) -> dict[str, Any]:
    return {
        "blocks": len(found.cut.kept_blocks),
        "divergence": found.divergence,
        "search_seconds": round(found.seconds, 1),
        **_kept(found.cut),
    }


def _times(setting: Setting, network: nn.Module) -> dict[str, float]:
    teacher, student = setting.milliseconds([network])
    return {"ms": round(student, 4), "teacher_ms": round(teacher, 4)}
