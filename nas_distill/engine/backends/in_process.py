"""Everything in this process, one work after another: for tests, which look into what trains."""

from __future__ import annotations

from contextlib import suppress

from nas_distill.common.errors import StorageError, first_line
from nas_distill.engine.work import Evaluator, Outcome, RungResult, Work, WorkRun, WorkSource, last_rung


class InProcessBackend:
    """Implements ``Backend`` with a loop. A native crash, or ``os._exit``, takes the whole search with it."""

    def run(self, source: WorkSource, evaluator: Evaluator) -> None:
        """Train what the source hands out until there is no more, or the source is stopping.

        Errors of the source are raised; errors of the evaluator end that work as failed, except for a StorageError,
        which is no fault of the work: it is interrupted, and the error raised.
        """
        while not source.stopping:
            work = source.next()
            if work is None:
                return
            try:
                outcome = _train(source, evaluator, work)
            except (KeyboardInterrupt, StorageError):
                source.finish(work.key, Outcome("interrupted"))
                raise
            source.finish(work.key, outcome)


def _train(source: WorkSource, evaluator: Evaluator, work: Work) -> Outcome:
    run: WorkRun | None = None
    try:
        while not source.stopping:  # it may have been asked to stop while it looked for this work
            # Only the evaluator's errors are the work's own; those of source.report are for the caller.
            result: RungResult
            try:
                run = run or evaluator.start(work)
                result = run.next_rung()
            except StorageError:
                raise
            except Exception as error:
                return Outcome("failed", first_line(error))
            if not source.report(work.key, result):
                return Outcome("stopped")
            if result.rung >= last_rung(work):
                return Outcome("complete")
        return Outcome("interrupted")
    finally:
        if run is not None:
            with suppress(Exception):
                run.close()
