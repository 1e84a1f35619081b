"""What trains the students of a run, and the weights that they begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas_distill.api.inputs import Inputs
from nas_distill.blockwise.library import CONTENT, Library
from nas_distill.blockwise.start import LocalWeights
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.run.folder import RunFolder
from nas_distill.space import InitialWeights, NetworkBuilder
from nas_distill.teacher import TeacherSignal


def make_evaluator(inputs: Inputs, signal: TeacherSignal, folder: RunFolder | None = None) -> StudentEvaluator:
    """Return what trains students, taught by ``signal``; ``folder``: of their run, which may have trained blocks."""
    builder = student_builder(inputs, folder)
    return StudentEvaluator(inputs.data, builder, signal, inputs.config.device, inputs.paths)


def student_builder(inputs: Inputs, folder: RunFolder | None = None) -> NetworkBuilder:
    """Return what builds students with the weights that they begin with; ``folder``: of their run."""
    return replace(inputs.builder, weights=initial_weights(inputs, folder))


def initial_weights(inputs: Inputs, folder: RunFolder | None = None) -> InitialWeights | None:
    """Return who gives students weights to begin with; None where all begin with random ones."""
    if inputs.cutting is None or inputs.cutting.config.start == "random":
        return None
    ancestor = inputs.cutting.ancestor
    if folder is None or inputs.config.search.strategy == "sample":
        return ancestor
    blocks = blocks_folder(inputs, folder)
    return LocalWeights(ancestor, Library.load(blocks)) if (blocks / CONTENT).exists() else ancestor


def blocks_folder(inputs: Inputs, folder: RunFolder) -> Path:
    """Return where the blocks of a run are kept that were distilled one by one."""
    named = inputs.config.blockwise.library
    return folder.blocks if named is None else inputs.base / Path(named).expanduser()
