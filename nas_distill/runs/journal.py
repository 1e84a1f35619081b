"""The Optuna journal of a run: written by the process that holds the run's lock, read by any.

Optuna appends JSON lines. A process killed in mid-append leaves a torn last line, to which the next append would be
glued, after which nothing can read the file. So the torn end is cut off before Optuna sees the file. Each line carries
its number and a digest (``runs/chain.py``), by which damage is found when the journal is read.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nas_distill.runs.chain import Chain, check_lines, seal
from nas_distill.runs.folder import RunFolder, free_folder, series
from nas_distill.runs.metadata import RunMetadata, check_version, host, versions
from nas_distill.utils.checkpoints import json_digest
from nas_distill.utils.errors import RunError
from nas_distill.utils.files import plain_file

with warnings.catch_warnings():
    # Optuna imports a progress bar that warns in every notebook that lacks the widgets to draw it.
    warnings.filterwarnings("ignore", message="IProgress not found")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, TrialState


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Mute Optuna's information lines and experimental notes inside the block; real warnings still show."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


STUDY = "search"


class NotBegunError(RunError):
    """The folder of a run that has recorded nothing yet."""


class Journal:
    """The run's study and metadata, opened for writing. Every change is on disk when the method returns.

    Whatever the disk refuses raises a RunError; from then on the journal accepts nothing more, and its
    content is intact.
    """

    def __init__(self, path: Path, study: optuna.Study, storage: JournalStorage, lines: _SealedFile) -> None:
        self.path = path
        self.study = study
        self.metadata = metadata_of(study, path)
        self._storage = storage
        self._lines = lines
        # Kept here: the storage would build a list of all trials for it.
        self._ids = _trial_ids(study)
        self._refused: RunError | None = None
        if not study.user_attrs:
            self._set("schema_version", self.metadata.schema_version)

    @property
    def next_number(self) -> int:
        """The number that the next trial gets."""
        return len(self._ids)

    def add(self, trial: FrozenTrial) -> int:
        """Append a whole trial (``optuna.trial.create_trial``) in one line, and return its number."""
        number = self.next_number
        with self._writing():
            self._ids.append(self._storage.create_new_trial(self.study._study_id, template_trial=trial))
        return number

    def annotate(self, number: int, name: str, value: Any) -> None:
        """Set a user attribute of an unfinished trial."""
        with self._writing():
            self._storage.set_trial_user_attr(self._ids[number], name, value)

    def tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Finish a running trial; ``values`` for COMPLETE only."""
        with self._writing():
            self._storage.set_trial_state_values(self._ids[number], state, values)

    def note(self, **changes: Any) -> None:
        """Set fields of the run's metadata; a value that is already there is not written again.

        Raises:
            pydantic.ValidationError: a field is unknown, or a value is not of its type.
            RunError: the journal cannot be written.
        """
        changed = self.metadata.changed(**changes)
        for name, value in self.metadata.differences(changed).items():
            self._set(name, value)
        self.metadata = changed

    def note_environment(self, seed: int) -> None:
        """Note the seed, the host and the versions of what computes; a resumed run keeps those it started with."""
        if self.metadata.host is None:
            self.note(seed=seed, versions=versions(), host=host())

    def _set(self, name: str, value: Any) -> None:
        with self._writing():
            self.study.set_user_attr(name, value)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._refused is not None:
            raise self._refused
        try:
            yield
        except OSError as error:
            self._refused = RunError(_refusal(self.path, error))
            cut_torn_line(self.path)  # half a line may have been written; cutting it off needs no space
            raise self._refused from error
        except BaseException:
            cut_torn_line(self.path)  # Ctrl-C in the middle of a line
            self._lines.find_end()
            self._ids = _trial_ids(self.study)  # or behind one, before its number was noted
            raise


def open_journal(folder: RunFolder, *, directions: Sequence[str], names: Sequence[str]) -> Journal:
    """Open (or begin) the journal of a locked run folder, after a torn last line was cut off.

    ``directions`` are ``maximize`` or ``minimize``, one per objective; ``names`` are those of the objectives.

    Raises:
        RunError: the journal is damaged (names the line), is of another version of nas_distill, is of a search with
            other objectives, or cannot be written.
    """
    if not folder.locked:
        raise RuntimeError("the run folder must be locked before its journal is opened for writing")
    path = folder.journal
    try:
        end = Chain()
        if path.exists():
            end = check_lines(path, path.read_bytes())[1]  # before anything of a damaged file is cut off
            cut_torn_line(path)
        _unlink_stale_locks(path)
        lines = _SealedFile(path, end)
        storage = _replay(path, lines)
        study = _open_study(storage, path, directions=directions, names=names)
    except OSError as error:
        raise RunError(_refusal(path, error)) from error
    return Journal(path, study, storage, lines)


def read_study(folder: RunFolder) -> optuna.Study:
    """Read a run's study as it is now. Changes nothing on disk, needs no lock, and cannot be written to.

    Raises:
        RunError: there is no run, or its journal is damaged (names the line) or of another version of nas_distill.
        NotBegunError: the run has recorded nothing yet.
    """
    path = folder.require().journal
    try:
        content = plain_file(path.parent, path.name).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path} cannot be read ({reason}).") from error
    storage = _replay(path, _LinesInMemory(check_lines(path, content)[0]))  # without the line that is being written
    names = [study.study_name for study in storage.get_all_studies()]
    if STUDY not in names:
        raise NotBegunError(f"{folder.path} holds no trials yet; try again once the search has begun.")
    study = optuna.load_study(study_name=STUDY, storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    _check_version(study, path)
    return study


def metadata_of(study: optuna.Study, path: Path) -> RunMetadata:
    """Return the metadata in the study of the journal at ``path``.

    Raises:
        RunError: it is of another version of nas_distill, or invalid.
    """
    return RunMetadata.read(study.user_attrs, path) if _check_version(study, path) else RunMetadata()


def read_metadata(folder: RunFolder) -> RunMetadata:
    """Read a run's metadata without touching it, also while another process writes it.

    Raises:
        RunError: there is no run, or its journal cannot be read.
    """
    try:
        return metadata_of(read_study(folder), folder.journal)
    except NotBegunError:
        return RunMetadata()


def choose_folder(base: Path, *, resume: bool) -> RunFolder:
    """Return where a search writes: its latest run when that is to be resumed and is unfinished, else a free folder.

    Raises:
        RunError: the latest run's journal cannot be read.
    """
    runs = series(base) if resume else []
    if runs and not read_metadata(runs[-1]).finished:
        return runs[-1]
    return free_folder(base)


def cut_torn_line(path: Path) -> int:
    """Cut a torn last line off a journal and return how many bytes went; what was whole stays."""
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        keep = _end_of_last_line(stream, size)
        if keep < size:
            stream.truncate(keep)
            os.fsync(stream.fileno())
    return size - keep


class _SealedFile(JournalFileBackend):
    """A journal on disk whose lines are sealed as they are appended, by its one writer."""

    def __init__(self, path: Path, end: Chain) -> None:
        super().__init__(str(path), lock_obj=_NoLock(str(path)))
        self._path = path
        self._end = end

    def find_end(self) -> None:
        """Read the end of the file again, after an append that may or may not have been whole."""
        self._end = check_lines(self._path, self._path.read_bytes())[1]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        sealed, end = [], self._end
        for log in logs:
            line, end = seal(log, end)
            sealed.append(line)
        super().append_logs(sealed)
        self._end = end


class _NoLock(JournalFileOpenLock):
    """Optuna's lock of the file, which the lock of the run's folder makes superfluous: only its holder writes."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class _LinesInMemory(BaseJournalBackend):
    """A journal read into memory, read-only."""

    def __init__(self, logs: list[dict[str, Any]]) -> None:
        self._logs = logs

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise RunError("this run was opened for reading; nothing can be added to it.")


def _check_version(study: optuna.Study, path: Path) -> bool:
    """Check a study's schema version; False if its process died before it wrote even that."""
    attributes = study.user_attrs
    if not attributes and not study.get_trials(deepcopy=False):
        return False
    check_version(attributes, path)
    return True


def _trial_ids(study: optuna.Study) -> list[int]:
    return [trial._trial_id for trial in study.get_trials(deepcopy=False)]


def _open_study(
    storage: JournalStorage, path: Path, *, directions: Sequence[str], names: Sequence[str]
) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)  # never used: proposals are made elsewhere (engine/proposals.py)
    existing = [study for study in storage.get_all_studies() if study.study_name == STUDY]
    if existing:
        found = [direction.name.lower() for direction in existing[0].directions]
        if found != list(directions):
            raise RunError(
                f"{path} was begun with objectives {', '.join(found)}, and is now opened with {', '.join(directions)}; "
                "resume it with the search file it was begun with, or search in another folder."
            )
        study = optuna.load_study(study_name=STUDY, storage=storage, sampler=sampler)
    else:
        with quiet_optuna():
            study = optuna.create_study(storage=storage, study_name=STUDY, directions=list(directions), sampler=sampler)
    if study.metric_names != list(names):
        with quiet_optuna():
            study.set_metric_names(list(names))
    return study


def _replay(path: Path, backend: BaseJournalBackend) -> JournalStorage:
    try:
        return JournalStorage(backend)
    except OSError:
        raise
    except Exception as error:  # any error of Optuna: the lines are intact, but are not a journal
        raise RunError(
            f"{path} cannot be replayed ({type(error).__name__}: {error}); restore it from a copy."
        ) from error


def _end_of_last_line(stream: Any, size: int) -> int:
    end = size
    while end > 0:
        start = max(0, end - 65536)
        stream.seek(start)
        at: int = stream.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _unlink_stale_locks(path: Path) -> None:
    # Its holder is dead: a writer holds the run's own lock, and that is ours.
    for stale in [path.with_name(path.name + ".lock"), *path.parent.glob(f"{path.name}.lock*.rename")]:
        stale.unlink(missing_ok=True)


def _refusal(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {path} is full; what was recorded is kept: make space, then resume."
    return f"{path} cannot be written ({error.strerror or error}); what was recorded is kept."


def identity_of(**sections: Any) -> dict[str, str]:
    """Return one digest per section; each value is JSON or a section of a search file.

    Sections are what scores and their meaning depend on: data, teacher, space, score, budget, objectives, latency,
    seed. Keys that affect only the length or speed of a search (trials, workers, time limit) are left out, so that
    they may be changed when a run is resumed.
    """
    return {name: json_digest(_without_defaults(value), 16) for name, value in sections.items()}


def check_identity(folder: RunFolder, journal: Journal, identity: Mapping[str, str]) -> None:
    """Record the identity of a new run, or check that of a resumed run.

    Raises:
        RunError: it is the run of another search; names the sections that differ.
    """
    known = journal.metadata.identity
    if not known:
        journal.note(identity=dict(identity))
        return
    differ = sorted(name for name in {*known, *identity} if known.get(name) != identity.get(name))
    if differ:
        named = ", ".join(f"'{name}'" for name in differ)
        raise RunError(
            f"{folder.path} was begun with another {named}, so its scores do not compare; "
            "undo the change to resume it, or search in another folder."
        )


def _without_defaults(value: Any) -> Any:
    if isinstance(value, BaseModel):
        # Null values are left out, so that a run can be continued by a version that has further keys.
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, Mapping):
        return {str(key): _without_defaults(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_defaults(inner) for inner in value]
    return value
