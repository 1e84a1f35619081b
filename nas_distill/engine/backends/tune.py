"""Ray Tune backend: parallel workers on this machine or a cluster."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

from nas_distill.engine.backends.isolation import Scratch, check_address, on_loopback, sweep
from nas_distill.engine.backends.relay import Relay
from nas_distill.engine.backends.shared import SharedFolder
from nas_distill.engine.backends.silence import (
    environment,
    log_to_file,
    printing_logged,
    signal_handlers_kept,
    standard_error_to,
    warnings_ignored_from,
)
from nas_distill.engine.backends.tune_state import Fit
from nas_distill.engine.backends.worker import Parcel, Worker
from nas_distill.engine.work import Evaluator, Limit, Work, WorkSource
from nas_distill.utils.errors import RunError, StorageError, first_line
from nas_distill.utils.files import (
    disk_error_message,
    disk_full_message,
    first_full_folder,
    full_disk_error,
    written_folders,
)
from nas_distill.utils.references import import_path

# Ray reads some of these when it is imported, others when it starts or fits.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what newer versions do anyway; older ones warn
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in the user's code stay good
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # never restored, so never saved while it runs
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # How long Ray's processes wait for each other: on a busy machine, its defaults are too short.
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # on a full disk, each line that it cannot log would go to the terminal
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_register_timeout_seconds": "300",
}
ATTEMPTS = 3

with environment(SETTINGS), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray
    from ray import tune
    from ray._private import ray_constants
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RaySystemError
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler
    from ray.tune.search import Searcher
    from ray.tune.stopper import Stopper

_log = logging.getLogger("ray.nas_distill")
_log.setLevel(logging.INFO)


class TuneBackend:
    """Executes the work of a source on Ray Tune.

    ``workers`` processes at a time, each with ``threads`` torch threads (and as many CPUs of Ray) and
    ``gpus_per_worker`` GPUs (may be a fraction, which shares a GPU without isolating its users). A work whose worker
    died is started again from its checkpoint up to ``retries`` times; one that takes longer than ``limit`` says is
    ended as failed. The worker of a failed work is replaced.
    ``address`` is that of a Ray cluster, whose nodes must see the run folder under the same path (where one does not,
    the search ends with a StorageError); None starts Ray on this machine, on loopback. ``folder`` gets ``ray.log``.

    Ray is started by the first ``run`` and ended with it; as a context manager, the backend keeps it over several runs,
    and sends an evaluator that several runs share once.
    A Ray that the calling program has already started is used, and left running.

    ``startup_seconds``: what runs have waited for their first work to begin on a worker, all runs together.
    """

    def __init__(
        self,
        *,
        workers: int,
        threads: int = 1,
        gpus_per_worker: float = 0.0,
        retries: int = 1,
        address: str | None = None,
        folder: Path,
        limit: Limit | None = None,
    ) -> None:
        self.startup_seconds = 0.0
        self._workers = workers
        self._threads = threads
        self._gpus = gpus_per_worker
        self._retries = retries
        self._address = address
        self._folder = Path(folder)
        self._limit = limit
        self._silence: ExitStack | None = None
        self._scratch: Scratch | None = None
        self._shared: SharedFolder | None = None
        self._sent: tuple[Evaluator, ray.ObjectRef] | None = None
        self._started = False
        self._kept = False

    def __enter__(self) -> Self:
        self._kept = True
        return self

    def __exit__(self, *_: object) -> None:
        self._kept = False
        self.close()

    def run(self, source: WorkSource, evaluator: Evaluator) -> None:
        """Run until the source has no more work and all is finished, or the source is stopping.

        Raises:
            RunError: Ray cannot be started or reached, the evaluator cannot be sent to workers, or Tune itself failed.
            Exception: whatever the source raised, after the workers have been ended.
        """
        began = time.time()
        relay = Relay(source, retries=self._retries, places=written_folders(self._folder))
        try:
            scratch = self._begin()
            with environment(SETTINGS), warnings_ignored_from("ray"), signal_handlers_kept():
                self._run(relay, evaluator, began, scratch)
        finally:
            relay.interrupt()
            if not self._kept:
                self.close()
        if relay.error is not None:
            raise relay.error

    def start(self) -> None:
        """Start Ray or connect to it, where that is not done yet; ``run`` does it too.

        Raises:
            RunError: Ray cannot be started or reached, or has no room for a single worker.
            StorageError: a disk that it writes to is full.
        """
        self._begin()

    def _begin(self) -> Scratch:
        if self._silence is None:
            self._silence = ExitStack()
            self._silence.enter_context(log_to_file("ray", self._folder / "ray.log"))
            # A thread of Ray's prints about workers that died, whatever its settings.
            self._silence.enter_context(printing_logged(ray._private.worker, "print_to_stdstream", _log))
            # Tune looks for the files of its loggers, which are off, and tells of each trial that it has found none.
            logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
        try:
            if self._scratch is None:
                sweep()
                self._scratch = Scratch()
            if not ray.is_initialized():
                talk = standard_error_to(self._folder / "ray.log")  # of log levels, before they count
                with environment(SETTINGS), warnings_ignored_from("ray"), signal_handlers_kept(), talk:
                    self._init()
                self._started = True
                if self._address is None and (session := _session_folder()) is not None:
                    self._scratch.note_session(session)
            self._check_room()
            if self._shared is None and not (self._started and self._address is None):
                self._shared = SharedFolder.mark(self._folder)  # there may be other machines
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                self._blame_disk(error)
            raise
        return self._scratch

    def _blame_disk(self, error: Exception) -> None:
        """Raise a StorageError where an error of Ray's is that of a full disk."""
        full = full_disk_error(error)
        place = first_full_folder(written_folders(self._folder))
        if place is not None:
            raise StorageError(disk_full_message(place)) from error
        if full is not None:
            raise StorageError(disk_error_message(full)) from error
        if isinstance(error.__cause__ or error, (ObjectStoreFullError, OutOfDiskError)):
            raise StorageError(
                "Ray's object store has no room left (it lies in shared memory, /dev/shm, or on the disk of temporary "
                "files); what was finished is kept: make space, then resume."
            ) from error

    def close(self) -> None:
        """End Ray if this backend has started it, and give its log and messages their old ways."""
        self._sent = None
        if self._started:
            self._started = False
            with warnings_ignored_from("ray"), signal_handlers_kept():
                ray.shutdown()
        if self._shared is not None:
            self._shared.unmark()
            self._shared = None
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None
        if self._silence is not None:
            self._silence.close()
            self._silence = None

    def _init(self) -> None:
        if self._address is not None:
            check_address(self._address)
        where: dict[str, Any] = {"address": self._address}
        if self._address is None:
            where = {"address": "local", "num_cpus": self._workers * self._threads, "include_dashboard": False}
            where["_node_ip_address"] = "127.0.0.1"
        # Read as a worker imports torch, before it can be set otherwise.
        variables = {"OMP_NUM_THREADS": str(self._threads)}
        home = Path(__file__).parents[3]
        if home.name not in ("site-packages", "dist-packages"):  # not installed: a worker would not find this package
            paths = [str(home), os.environ.get("PYTHONPATH", "")]
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        # On a busy machine Ray's own processes time out waiting for each other; the next time they are in memory.
        for attempt in range(ATTEMPTS):
            try:
                with nullcontext() if self._address is not None else on_loopback(ray_constants):
                    ray.init(
                        **where,
                        runtime_env={"env_vars": variables},
                        log_to_driver=False,
                        logging_level=logging.WARNING,
                    )
                return
            except Exception as error:
                _log.exception("Ray did not start")
                ray.shutdown()
                if attempt + 1 < ATTEMPTS and self._address is None:
                    continue
                what = f"No Ray cluster answers at '{self._address}'" if self._address else "Ray cannot be started"
                advice = "'search.backend: inline' does without"
                if (
                    self._address and "RAY_AUTH_MODE" not in os.environ
                ):  # joined by an address, Ray does not look for one
                    advice = f"where the cluster requires a token, set RAY_AUTH_MODE=token; {advice}"
                raise RunError(f"{what} ({first_line(error)}); {advice}.") from error

    def _check_room(self) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self._threads and node.get("GPU", 0) >= self._gpus for node in nodes):
            raise RunError(
                f"No node of Ray has the {self._threads} CPUs and {self._gpus:g} GPUs that one worker takes; "
                "lower 'search.threads' or 'search.gpus_per_worker'."
            )

    def _run(self, relay: Relay, evaluator: Evaluator, began: float, scratch: Scratch) -> None:
        """Fit until the relay is done; a fit that falls over is followed by another one for what it left behind."""
        with tempfile.TemporaryDirectory(dir=scratch.path, prefix="fit-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            trainable = self._trainable(evaluator, folder)
            while not relay.done and not relay.ending:
                fit = Fit(relay, faults=folder, began=began, kill=ray.kill, limit=self._limit)
                cause = "Ray Tune lost it"
                try:
                    self._tuner(fit, trainable, folder).fit()
                except Exception as error:
                    _log.exception("Tune fell over")
                    self._blame_disk(error)
                    cause = f"Ray Tune ended with an error ({first_line(error)}); see {self._folder / 'ray.log'}"
                    if not relay.in_flight:
                        raise RunError(f"{cause}.") from error
                finally:
                    fit.kill_workers()
                    self.startup_seconds += fit.startup_seconds or 0.0
                if not relay.ending:
                    relay.lost(cause)
                began = time.time()

    def _trainable(self, evaluator: Evaluator, scratch: Path) -> type[tune.Trainable]:
        if self._sent is None or self._sent[0] is not evaluator:
            try:
                self._sent = evaluator, ray.put(evaluator)
            except Exception as error:
                self._blame_disk(error)
                raise RunError(
                    f"The evaluation cannot be sent to worker processes ({first_line(error)}); make what it holds "
                    "picklable."
                ) from error
        worker = {
            "threads": self._threads,
            "faults": scratch,
            "paths": import_path(),
            "shared": self._shared,
        }
        # In a list, a reference stays one: workers fetch the evaluator with their first work.
        trainable = tune.with_parameters(_Trainable, evaluator=[self._sent[1]], worker=worker)
        return tune.with_resources(trainable, {"cpu": self._threads, "gpu": self._gpus})

    def _tuner(self, fit: Fit, trainable: type[tune.Trainable], scratch: Path) -> tune.Tuner:
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(fit),
                scheduler=_Scheduler(fit),
                num_samples=-1,
                max_concurrent_trials=self._workers,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                # Works save themselves; by default, Tune asks a class for a checkpoint at its end.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=self._retries),
                stop=_Stopper(fit),
                verbose=0,
            ),
        )


def _absolute(work: Work) -> Work:
    """Return a work whose paths mean the same in a process that was started elsewhere."""
    output = None if work.output is None else work.output.absolute()
    return replace(work, checkpoint=work.checkpoint.absolute(), output=output)


def _session_folder() -> Path | None:
    """Return where Ray keeps the logs and sockets of the session that this process has started."""
    try:
        return Path(ray._private.worker._global_node.get_session_dir_path())
    except Exception:  # it is not a public interface
        return None


class _Trainable(tune.Trainable):
    """A worker as Tune sees it; a step is a rung."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        evaluator: list[ray.ObjectRef],
        worker: dict[str, Any],
    ) -> None:
        (reference,) = evaluator

        def fetch() -> Evaluator:
            try:
                return cast(Evaluator, ray.get(reference))
            except RaySystemError as error:  # holds a traceback as text, which ends with the error itself
                said = str(error).strip().splitlines()[-1]
                raise RunError(f"the evaluation does not unpack on a worker ({said})") from error

        self._worker = Worker(fetch, **worker)
        self._worker.prepare()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._worker.load(new_config["work"].open())
        return True

    def step(self) -> dict[str, Any]:
        return {"message": self._worker.step()}

    def cleanup(self) -> None:
        self._worker.close()


class _Searcher(Searcher):
    """Relays the source's works, under trial ids that Tune makes up."""

    def __init__(self, fit: Fit) -> None:
        super().__init__()
        self._fit = fit

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        work = self._fit.relay.next()
        if work is None:
            return Searcher.FINISHED
        return {"key": work.key, "work": Parcel.of(_absolute(work))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand a work out again that Tune gave up although it may be retried, as when its worker died between works."""
        if error:
            self._fit.relay.hand_out_again(self._fit.key(trial_id))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Keep nothing: the source has its own record."""

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _Scheduler(FIFOScheduler):
    """Relays results, and the source's answers; the searcher does not see a result that stops its trial."""

    def __init__(self, fit: Fit) -> None:
        super().__init__()
        self._fit = fit

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._fit.add(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        message = result.get("message")
        if message is None:
            return TrialScheduler.CONTINUE
        if self._fit.take(message):
            return TrialScheduler.CONTINUE
        if message.cause is not None and not self._fit.relay.ending:
            # Stopped, its worker would be used for the next work, for which this one may have changed torch.
            self._fit.kill_failed(trial)
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._fit.died(trial)


class _Stopper(Stopper):
    """Ends a fit within a fraction of a second of the source's asking."""

    def __init__(self, fit: Fit) -> None:
        self._fit = fit

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._fit.relay.ending:
            self._fit.end_overdue()
            return False
        self._fit.kill_workers()
        return True
