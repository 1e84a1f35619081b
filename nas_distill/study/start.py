"""Entry points: ``search``, ``open_run`` and ``dry_run``, from a file or from Python objects."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nas_distill.calibration.advice import load_advice, with_advice
from nas_distill.config import SearchConfig, SearchFile, TeacherSource, load_search_file, load_teach_file, parse
from nas_distill.data import Dataset
from nas_distill.distill.teach import TeachProgress, teach
from nas_distill.engine.proposals import check_sampler
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import choose_folder
from nas_distill.runs.metadata import Phase
from nas_distill.spaces import SearchSpace
from nas_distill.study.cutting import describe_cutting
from nas_distill.study.interruption import Interruption, interruptible
from nas_distill.study.observer import Observer, default_observer
from nas_distill.study.pipeline import Pipeline
from nas_distill.study.problem import FROM_PYTHON, SearchProblem, load_data, resolve, search_paths
from nas_distill.study.run import Run
from nas_distill.study.signals import store_contents
from nas_distill.study.warm_start import check_earlier_runs
from nas_distill.tasks import Evaluation
from nas_distill.teacher import LiveSignal
from nas_distill.utils.errors import ConfigError, RunError, did_you_mean
from nas_distill.utils.modules import resolve_device

_SECTIONS = ("search", "score", "final", "latency", "allocation", "blockwise")


def search(
    file: str | Path | None = None,
    *,
    teacher: nn.Module | Sequence[nn.Module] | str | None = None,
    data: Any = None,
    builder: Callable[..., nn.Module] | str | None = None,
    space: SearchSpace | Mapping[str, Any] | str | None = None,
    budget: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    calibration: str | Path | None = None,
    observer: Observer | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Search for the best student and return the run.

    Args:
        file: a search file; other arguments replace its sections. Without a file, ``teacher``, ``data`` and ``space``
            are needed.
        teacher: any module that maps samples to logits, which is frozen; or a name as in a search file. Several
            modules are combined (see ``teacher.combine``); budgets in percent refer to the first.
        data: a Dataset, (x, y), a torch map-style dataset, or a mapping of such by split; or a name.
        builder: a function that builds a network from the parameters of ``space``, passed by name, with ``input_shape``
            and ``num_classes`` if it takes them. Functions defined in a notebook work.
        space: parameters and their values, the name of a shipped space, or a SearchSpace.
        budget: hard limits, e.g. ``{"flops": "50%", "params": "60k"}`` (percent of the teacher's). Each replaces the
            file's limit on the same cost, None removes it, and the file's other limits stay.
        folder: of the run; ``runs/search`` or, with a file, next to it, unless given. An existing run is never
            overwritten: the next one gets a new folder.
        resume: resume the latest unfinished run in that folder; without one, start a new run.
        seed: of all random choices.
        calibration: the ``advice.yaml`` of a calibration, for keys that neither file nor settings set.
        observer: gets progress. Without one, progress, the table of costs and the result are shown on the terminal or
            in the notebook.
        quiet: show nothing.
        settings: keys of the ``search`` section (``trials=40, workers=2, sampler="tpe"``), or whole sections:
            ``score={"epochs": 4}``, ``final={"epochs": 20}``, ``latency={"calibrate": 0}``.

    Raises:
        NasDistillError: an input is invalid, or the search cannot continue; finished work is kept.
    """
    started = time.perf_counter()
    with default_observer(observer, quiet=quiet) as active:
        problem, base = prepare(
            file,
            teacher=teacher,
            data=data,
            builder=builder,
            space=space,
            budget=budget,
            seed=seed,
            calibration=calibration,
            settings=settings,
            folder=folder,
            resume=resume,
            on_phase=active.phase,
        )
        chosen = _require_free_folder(choose_folder(base, resume=resume))
        with interruptible() as interruption:
            Pipeline(problem, chosen, active, interruption, started=started).run()
    return Run(chosen.path, problem=problem)


def dry_run(
    file: str | Path,
    *,
    settings: Mapping[str, Any],
    budget: Mapping[str, Any] | None,
    observer: Observer,
    calibration: str | Path | None = None,
) -> None:
    """Survey the space of a search file and report it to the observer, without training or writing anything.

    Raises:
        NasDistillError: the search could not start.
    """
    problem, base = prepare(file, budget=budget, calibration=calibration, settings=settings, on_phase=observer.phase)
    for sentence in (*describe_cutting(problem.cutting), *problem.notes):
        observer.note(sentence)
    pipeline = Pipeline(problem, RunFolder(base), observer, Interruption())
    pricing = pipeline.pricing(None)
    features = store_contents(problem, problem.config.score.training).features
    observer.phase(Phase.SURVEY)
    survey = pipeline.survey(pricing)
    observer.phase(Phase.STEP_TIMING)
    estimate = pipeline.estimate(survey, LiveSignal(problem.teacher, features=features))
    observer.survey(survey, estimate, pricing, problem)


def open_run(
    path: str | Path,
    *,
    data: Any = None,
    teacher: nn.Module | None = None,
    builder: Callable[..., nn.Module] | str | None = None,
    space: SearchSpace | Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Run:
    """Open a run's folder.

    To train or evaluate, pass again the objects that the search got from Python. Reading a run is safe even if another
    user made it. Training, evaluation and export load code and files that another user's run names (builders, losses,
    data) only with ``trust=True``; nas_distill's own are always loaded.

    Raises:
        RunError: the folder has no run, or its journal cannot be read.
    """
    return Run(path, trust=trust, data=data, teacher=teacher, builder=builder, space=space)


def teach_file(file: Path, *, on_epoch: Callable[[TeachProgress], None]) -> tuple[Path, Evaluation, str]:
    """Train the teacher of a teach file; return its folder, its evaluation, and the split of the evaluation.

    A relative ``output`` is next to the file. The same call resumes an interrupted training.

    Raises:
        NasDistillError: the file, the data or the builder is invalid.
    """
    config = load_teach_file(file)
    paths = search_paths(file)
    data = load_data(config.data, paths, config.seed)
    output = file.parent / config.output
    evaluation = teach(config, data, output, paths=paths, on_epoch=on_epoch)
    return output, evaluation, data.splits[-1]


def prepare(
    file: str | Path | None,
    *,
    teacher: nn.Module | Sequence[nn.Module] | str | None = None,
    data: Any = None,
    builder: Callable[..., nn.Module] | str | None = None,
    space: SearchSpace | Mapping[str, Any] | str | None = None,
    budget: Mapping[str, Any] | None = None,
    seed: int | None = None,
    calibration: str | Path | None = None,
    settings: Mapping[str, Any],
    folder: str | Path | None = None,
    resume: bool = False,
    on_phase: Callable[[str], None] | None = None,
) -> tuple[SearchProblem, Path]:
    """Return the problem of a search and the folder of its run (``folder`` if given); arguments as of ``search``.

    With ``resume``, the pruning plan that the run has stored is used again. ``on_phase`` is called with phases
    that take long.

    Raises:
        NasDistillError: an input is invalid.
    """
    path = None if file is None else Path(file)
    content = {} if path is None else load_search_file(path).model_dump(mode="json", exclude_unset=True)
    source = "search(...)" if path is None else str(path)
    if path is None:
        for name, value in {"teacher": teacher, "data": data, "space": space}.items():
            if value is None:
                raise ConfigError(f"search(...): give a search file, or teacher, data and space; '{name}' is missing.")
    if isinstance(data, str):
        content["data"], data = {"name": data}, None
    elif data is not None:
        name = data.name if isinstance(data, Dataset) else type(data).__name__
        content["data"] = {"name": f"{FROM_PYTHON} {name}"}
    if teacher is not None:
        known = content.get("teacher") or {}
        teachers: list[Any] = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
        kept = {key: value for key, value in known.items() if key not in TeacherSource.model_fields}
        first, *others = teachers
        content["teacher"] = {
            **kept,
            "name": _teacher_name(first),
            **({"others": list(map(_teacher_name, others))} if others else {}),
        }
    module = None if isinstance(teacher, str) else teacher
    if space is not None or builder is not None:
        content["space"] = _space_section(content.get("space"), space, builder)
    if budget is not None:
        content["budget"] = _merged_budget(content.get("budget"), budget)
    if seed is not None:
        content["seed"] = seed
    if calibration is not None:
        content["calibration"] = str(Path(calibration).absolute())
    content = _with_settings(content, settings, source)
    if content.get("calibration") is not None:
        content = with_advice(content, load_advice(_resolve_file(content["calibration"], search_paths(path))))
    config = parse(SearchFile, content, source=source)
    given_space = space if space is not None else (content["space"] if builder is not None else None)
    default = _run_folder(path, config.name, source)
    base = default if folder is None else Path(folder)
    problem = resolve(
        config,
        search_paths(path),
        data=data,
        teacher=module,
        space=given_space,
        builder=builder,
        plan=choose_folder(base, resume=True).plan if resume else None,
        on_phase=on_phase,
    )
    problem.space.builder_function()  # without it every candidate would fail
    resolve_device(config.device)
    problem.check_costs()
    check_sampler(problem.config.search, problem.space, problem.objectives, problem.paths)
    if not resume:
        check_earlier_runs(problem)
    return problem, base


def _teacher_name(teacher: nn.Module | str) -> str:
    return teacher if isinstance(teacher, str) else f"{FROM_PYTHON} {type(teacher).__name__}"


def _resolve_file(name: str, paths: Sequence[Path]) -> Path:
    """Return the first existing file of that name, or its first possible path."""
    files = [base / Path(name).expanduser() for base in paths]
    return next((file for file in files if file.exists()), files[0])


def _run_folder(file: Path | None, name: str | None, source: str) -> Path:
    """Return the folder of a search's runs: next to its file, named after it unless ``name`` is set."""
    parent = Path("runs") if file is None else file.parent
    if name is None:
        # A file without a suffix and a folder cannot have the same name.
        return parent / ("search" if file is None else file.stem if file.suffix else f"{file.name}-run")
    if Path(name).name != name or name in ("", "..") or len(name.encode()) > 200 or not name.isprintable():
        raise ConfigError(
            f"{source}: 'name' is {reprlib.repr(name)}, which is not a valid name of a folder; use a short name of "
            "printable characters, without slashes."
        )
    return parent / name


def _merged_budget(known: Mapping[str, Any] | None, given: Any) -> Any:
    """Return the file's limits, replaced per cost by the given ones; a limit of None removes the file's."""
    if not isinstance(given, Mapping):
        return given  # the config model refuses it
    return {name: limit for name, limit in {**(known or {}), **given}.items() if limit is not None}


def _space_section(
    known: Any, space: SearchSpace | Mapping[str, Any] | str | None, builder: Callable[..., nn.Module] | str | None
) -> Any:
    """Return the space as in a search file, so that the run records it."""
    if isinstance(space, SearchSpace):
        return space.to_dict()
    content = known if space is None else space
    if isinstance(content, Mapping) and builder is not None:
        return SearchSpace.from_dict(content, builder=builder).to_dict()
    return dict(content) if isinstance(content, Mapping) else content


def _require_free_folder(folder: RunFolder) -> RunFolder:
    """Return a folder for a run; refuse one with other files, which a run might overwrite.

    Raises:
        RunError: the folder has other files.
    """
    if folder.exists or not folder.path.is_dir():
        return folder
    others = sorted(path.name for path in folder.path.iterdir() if path != folder.lock_file)
    if others:
        raise RunError(
            f"{folder.path} contains {others[0]!r} and is not a run; give an empty or new folder "
            "(--folder, or folder=... from Python)."
        )
    return folder


def _with_settings(content: Mapping[str, Any], settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    merged = {**content}
    for key, value in settings.items():
        if value is None:
            continue
        if key in _SECTIONS:
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
        elif key in SearchConfig.model_fields:
            merged["search"] = {**merged.get("search", {}), key: value}
        elif key == "device":
            merged[key] = value
        else:
            known = [*SearchConfig.model_fields, *_SECTIONS, "device"]
            raise ConfigError(f"{source}: unknown setting '{key}'{did_you_mean(key, known)}")
    return merged
