"""State that Tune's searcher, scheduler and stopper share."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from nas_distill.engine.backends.relay import Relay
from nas_distill.engine.backends.worker import Message
from nas_distill.engine.death import cause_of_death, read_fault
from nas_distill.engine.work import Limit, over_limit


class Fit:
    """One fit of Tune's: which trial is which work, whose worker died, and how to end those in flight.

    ``faults`` is the folder of the traces of native crashes, ``began`` when the waiting for workers began (Unix time),
    ``kill`` ends a worker at once, ``limit`` says how long a work may take. ``startup_seconds`` is the duration of
    that waiting, None before the first message.
    """

    def __init__(
        self, relay: Relay, *, faults: Path, began: float, kill: Callable[[Any], None], limit: Limit | None = None
    ) -> None:
        self.relay = relay
        self.startup_seconds: float | None = None
        self._faults = faults
        self._began = began
        self._kill = kill
        self._limit = limit
        self._running_since: dict[str, float] = {}
        self._deaths: set[tuple[str, str | None]] = set()
        self._trials: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher and scheduler for a restore that is never asked for; a source may hold anything.
        return {}

    def add(self, trial: Any) -> None:
        """Note a trial, new or tried again."""
        self._trials[trial.trial_id] = trial

    def key(self, trial_id: str) -> str:
        """Return the key of the work that a trial represents."""
        return str(self._trials[trial_id].config["key"])

    def take(self, message: Message) -> bool:
        """Pass a worker's message on, and return whether its work continues."""
        if self.startup_seconds is None:
            self.startup_seconds = max(0.0, message.begun - self._began)
        return self.relay.take(message)

    def died(self, trial: Any) -> None:
        """Count the death of a trial's worker, which Tune reports twice if it happens between two works."""
        key, error = self.key(trial.trial_id), _error(trial)
        death = (key, getattr(error, "actor_id", None))
        if None in death or death not in self._deaths:
            self._deaths.add(death)
            self.relay.died(key, cause_of_death(error, read_fault(self._faults, key)))

    def end_overdue(self) -> None:
        """End works that take longer than their limit; they have failed, and are not tried again."""
        for trial in self._trials.values() if self._limit is not None else ():
            key = str(trial.config["key"])
            work = self.relay.open_work(key)
            if trial.status != "RUNNING" or work is None or self._limit is None:
                continue
            since = self._running_since.setdefault(key, time.monotonic())
            limit = self._limit(work)
            if limit is not None and time.monotonic() - since > limit:
                self.relay.fail(key, over_limit(limit))
                self.kill_failed(trial)

    def kill_failed(self, trial: Any) -> None:
        """End the worker of a work that has failed, which Tune takes for its death and does not try again."""
        trial.max_failures = trial.run_metadata.num_failures
        self._kill_worker(trial)

    def kill_workers(self) -> None:
        """End the workers in flight at once; a graceful end would wait for their rung."""
        for trial in self._trials.values():
            if trial.status == "RUNNING":
                self._kill_worker(trial)

    def _kill_worker(self, trial: Any) -> None:
        if (actor := trial.temporary_state.ray_actor) is not None:
            with suppress(Exception):  # it may be dead already, and so may Ray
                self._kill(actor)


def _error(trial: Any) -> Exception | None:
    """Return what Tune has kept of a trial's end; its own reader looks where nothing is copied before the end."""
    try:
        return cast(Exception, pickle.loads(Path(trial.pickled_error_file).read_bytes()))
    except Exception:
        return None
