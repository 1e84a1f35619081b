"""Jobs of benchmarks/earns.py: a cut of a teacher to a limit, in one way, under one seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_distill.costs.latency import LATENCY

ARMS = ("uniform", "halved", "random", "allocated", "raced", "fastnas")
RULES = ("uniform", "halved")
"""Ways with one network for all seeds."""
SHIPPED = {"shipped": "fashion-resnet", "deep": "fashion-resnet-deep"}
"""Shipped teachers, by the name they have here."""
FLOPS = "flops"
COSTS = (FLOPS, LATENCY)
NOTHING = "nothing"
"""Mark of a way that has no network within a limit."""
FLOPS_SHARES, TIME_SHARES = (0.1, 0.2), (0.5, 0.25)


@dataclass(frozen=True)
class Limit:
    """A share of one of the teacher's costs."""

    share: float
    cost: str = FLOPS

    @property
    def key(self) -> str:
        return f"{round(100 * self.share):02d}" + ("" if self.cost == FLOPS else "ms")

    def text(self) -> str:
        """Write as ``10% of its FLOPs``."""
        return f"{self.share:.0%} of its {'FLOPs' if self.cost == FLOPS else 'time'}"


@dataclass(frozen=True)
class Job:
    """A cut of a teacher to a limit, in one way, under one seed."""

    teacher: str
    limit: Limit
    arm: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.teacher}-{self.limit.key}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Settings:
    """Settings of all jobs.

    ``root``: folder of the data's IDX files. ``teachers``: names or folders of the teachers, by the name they have
    here. ``images``: that an arm may see. ``work``: folder of stores, timings and FastNAS's results. ``peer``: Python
    with FastNAS.
    """

    root: str | None
    teachers: Mapping[str, str]
    images: int
    work: Path
    peer: Path | None = None


def jobs(
    teachers: Sequence[str], limits: Sequence[Limit], arms: Sequence[str], seeds: int, *, peer: bool
) -> Iterator[Job]:
    """Yield jobs, seed by seed, without those that make no sense."""
    for seed in range(seeds):
        for limit in limits:
            for teacher in teachers:
                for arm in arms:
                    if teacher == "shipped" and arm == "halved":
                        continue  # a single block of it can be dropped
                    if arm == "fastnas" and (not peer or limit.cost != FLOPS or teacher == "vit"):
                        continue  # it cuts convolutional networks to a limit of FLOPs
                    yield Job(teacher, limit, arm, seed)


def job_of(row: Mapping[str, Any]) -> Job:
    """Return the job of a row of the page's table."""
    return Job(row["teacher"], Limit(row["share"], row.get("cost", FLOPS)), row["arm"], row["seed"])
