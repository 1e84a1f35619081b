"""Arguments and options that several commands have, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_distill.common.errors import ConfigError

if TYPE_CHECKING:
    from nas_distill.api import Run

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run, e.g. runs/quickstart")]
TrialArgument = Annotated[int | None, typer.Argument(metavar="[TRIAL]", help="trial number; the best one unless given")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document instead of a table")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="load the code and files that a run of somebody else names; your own need it not"),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="COST=LIMIT", help="e.g. flops=2M, params=60k, latency_ms=0.5, flops=50%"),
]


def open_the_run(path: Path, *, trust: bool = False) -> Run:
    """Open a run's folder."""
    from nas_distill.api import open_run

    return open_run(path, trust=trust)


def parse_budget(entries: list[str] | None) -> dict[str, str] | None:
    """Return the limits of ``--budget`` options, None where there are none.

    Raises:
        ConfigError: one is not of the form COST=LIMIT.
    """
    if not entries:
        return None
    limits = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"--budget {entry}: write it as COST=LIMIT, e.g. --budget flops=2M.")
        limits[name.strip()] = value.strip()
    return limits
