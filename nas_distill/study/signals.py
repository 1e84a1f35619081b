"""Teacher signals of a search: stored, live, or of several teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from nas_distill.config import TrainingConfig
from nas_distill.distill.terms import LossTerms, sample_inputs
from nas_distill.engine.candidates import Candidates
from nas_distill.reports import formatting
from nas_distill.runs.folder import RunFolder
from nas_distill.study.observer import Observer
from nas_distill.study.problem import SearchProblem
from nas_distill.teacher import LiveSignal, Teacher, TeacherSignal, TeacherStore
from nas_distill.teacher.signal import CombinedSignal, Feature
from nas_distill.teacher.store_writer import Contents
from nas_distill.utils.errors import BuildError, TrainingError
from nas_distill.utils.layers import describe_pairs


def store_root(problem: SearchProblem, folder: RunFolder) -> Path:
    """Return the folder of teacher stores: the search file's, else one that runs in the same folder share."""
    named = problem.config.teacher.store
    return folder.path.parent / ".teacher-store" if named is None else problem.base / Path(named).expanduser()


def describe_compared_layers(problem: SearchProblem, candidates: Candidates) -> list[str]:
    """Return a sentence per loss term on the layers that it compares in the smallest student of the space.

    ``candidates`` builds that student; the result is empty where it cannot be built.

    Raises:
        TrainingError: a term finds no layers to compare.
    """
    config, data = problem.config, problem.data
    sentences: dict[str, None] = {}
    for training in (config.score.training, config.final.training):
        loss = problem.terms(training)
        if not loss.reads_layers:
            continue
        features = loss.features(problem.teacher.module, data)
        try:
            rows, error = candidates.apply(problem.space.smallest(), _layer_pairs, loss, features, sample_inputs(data))
        except BuildError:  # it fails when it is proposed
            continue
        if error is not None:
            raise TrainingError(error)
        sentences |= {f"'{name}' compares, in the smallest student: {pairs}.": None for name, pairs in rows}
    return list(sentences)


def _layer_pairs(
    student: nn.Module, loss: LossTerms, features: Sequence[Feature], x: Tensor
) -> tuple[list[tuple[str, str]], str | None]:
    """Return the layers that each term compares in a student, or the error of a term that finds none."""
    try:
        reads = loss.pairs(student, features, x)
    except TrainingError as error:
        return [], str(error)
    return [
        (term.config.name, "; ".join(f"{ours} from {theirs}" for ours, theirs in describe_pairs(read.pairs)))
        for term, read in zip(loss.terms, reads)
        if read.pairs
    ], None


def store_contents(problem: SearchProblem, training: TrainingConfig, *others: TrainingConfig) -> Contents:
    """Return the contents of a teacher store that serves the given trainings."""
    loss = sum(map(problem.terms, others), problem.terms(training))
    return Contents(loss.features(problem.teacher.module, problem.data), problem.config.teacher.top_k)


def teacher_signal(
    problem: SearchProblem, folder: RunFolder, observer: Observer, training: TrainingConfig, *others: TrainingConfig
) -> TeacherSignal:
    """Return the signal of the teacher, or of all teachers, with everything that the given trainings read.

    The search file and the losses determine whether it is stored; missing stores are built.
    """
    signal = _signal(problem, problem.teacher, store_contents(problem, training, *others), folder, observer)
    if not problem.others:
        return signal
    plain = Contents(top_k=problem.config.teacher.top_k)
    further = [_signal(problem, teacher, plain, folder, observer) for teacher in problem.others]
    combine = problem.config.teacher.combine
    return CombinedSignal([signal, *further], problem.data, by=combine.by, temperature=combine.temperature)


def _signal(
    problem: SearchProblem, teacher: Teacher, contents: Contents, folder: RunFolder, observer: Observer
) -> TeacherSignal:
    features = contents.features
    config = problem.config.teacher
    if config.signal == "live":
        return LiveSignal(teacher, features=features)
    if contents.too_large:
        observer.note(
            f"A loss reads whole layers of the teacher ({', '.join(contents.too_large)}), which are too large to "
            "store. The teacher runs beside each student, which makes a step several times as long."
        )
        return LiveSignal(teacher, features=features)
    if features or config.top_k is not None:
        size = contents.bytes(teacher.num_classes, problem.data)
        observer.note(f"The teacher's answers take {formatting.cost('weight_bytes', size)} of disk.")
    return TeacherStore.build(
        store_root(problem, folder),
        teacher,
        problem.data,
        on_progress=lambda done: observer.step(done.done, done.total),
        contents=contents,
        missing=config.missing,
    )
