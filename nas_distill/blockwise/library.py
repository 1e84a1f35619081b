"""Library of trained and scored alternatives in a folder, for assemblies within any later budget."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nas_distill.blockwise.alternatives import Alternative, Alternatives, find_alternatives
from nas_distill.blockwise.costs import CostTable, count_costs
from nas_distill.blockwise.scoring import LocalScores, score_block, score_width
from nas_distill.blockwise.training import LocalTraining
from nas_distill.config import BlockwiseConfig
from nas_distill.data import Dataset
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.plan import RANDOM, Cut
from nas_distill.spaces import Architecture
from nas_distill.utils.checkpoints import json_digest, module_digest
from nas_distill.utils.errors import RunError, StorageError, TrainingError, first_line
from nas_distill.utils.files import atomic_path, write_json
from nas_distill.utils.modules import torch_threads


@dataclass(frozen=True)
class LocalWeights:
    """Initial weights of students: those of trained blocks from the library, the rest from the teacher.

    Picklable; workers read the library's weights from its folder.
    """

    inheritance: WeightInheritance
    library: Library

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give a student its initial weights, in place, if its architecture starts from inherited ones."""
        cut = self.inheritance.space.decode(architecture)
        if self.inheritance.inherit(student, cut):
            self.library.start(student, cut)
            self.inheritance.recalibrate_batch_norm(student)


CONTENT, WEIGHTS, SCORES = "library.json", "weights.safetensors", "scores.json"
FORMAT = 3
_TRAINED_BY = ("trunk", "widths", "epochs", "batch_size", "optimizer", "warmup", "heldout")


@dataclass(frozen=True)
class Library:
    """A library of trained alternatives; made by ``build_library``.

    Attributes:
        folder: of its files.
        alternatives: of all blocks, and the widths of the groups that they share.
        scores: of each alternative by its key; lower is better.
        width_scores: of each width of the shared groups that are read outside of the blocks, by group and width.
        costs: of alternatives and of the layers outside of the blocks.
        presented: number of training samples presented to the alternatives, each counted once for all of them. Samples
            for statistics and scores are not included.
        seconds: duration of the training, without scoring.
        identity: digest of everything that the library depends on.
    """

    folder: Path
    alternatives: Alternatives
    scores: Mapping[str, LocalScores]
    width_scores: Mapping[tuple[str, int], LocalScores]
    costs: CostTable
    presented: int
    seconds: float
    identity: str

    def weights(self, entry: Alternative) -> dict[str, Tensor]:
        """Return the state dict of an alternative, on the CPU; empty if it has no weights.

        Raises:
            RunError: the folder's weights are missing or damaged.
        """
        path, prefix = self.folder / WEIGHTS, f"{entry.key}/"
        try:
            with safe_open(path, framework="pt") as file:
                return {name[len(prefix) :]: file.get_tensor(name) for name in _names(file, prefix)}
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} cannot be read ({first_line(error)}); delete its folder to train again.") from error

    def start(self, student: nn.Module, cut: Cut) -> int:
        """Load the library's weights into a student's blocks, in place; return the number of blocks that it has.

        The student must have its inherited weights already (``WeightInheritance.inherit``). The blocks' batch-norm
        statistics are those of the teacher's activations, so recalibrate the student's batch norms afterwards
        (``pruning.statistics.recalibrate_batch_norm``). A student that starts from random weights is not changed.

        Args:
            student: of the space of the library.
            cut: of the student.
        """
        if cut.start == RANDOM:
            return 0
        filled = 0
        for entry in self.alternatives.of_cut(cut):
            score = self.scores.get(entry.key)
            # Alternatives whose training diverged have weights, too.
            weights = self.weights(entry) if score is not None and math.isfinite(score.nsr) else {}
            if weights:
                name = self.alternatives.plan.blocks[entry.block].module
                student.get_submodule(name).load_state_dict(weights)
                filled += 1
        return filled

    def save(self) -> None:
        """Write everything except the weights into the folder."""
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "presented": self.presented,
            "seconds": self.seconds,
            "alternatives": self.alternatives.to_dict(),
            "scores": {key: _score_values(score) for key, score in self.scores.items()},
            "width_scores": [
                [group, width, _score_values(score)] for (group, width), score in self.width_scores.items()
            ],
            "costs": self.costs.to_dict(),
        }
        write_json(self.folder / CONTENT, content)

    @classmethod
    def load(cls, folder: Path) -> Library:
        """Return the finished library of a folder.

        Raises:
            RunError: the folder has none, or it cannot be read.
        """
        path = folder / CONTENT
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']}, not {FORMAT}")
            return cls(
                folder=folder,
                alternatives=Alternatives.from_dict(content["alternatives"]),
                scores={key: _score(values) for key, values in content["scores"].items()},
                width_scores={(group, width): _score(values) for group, width, values in content["width_scores"]},
                costs=CostTable.from_dict(content["costs"]),
                presented=content["presented"],
                seconds=content["seconds"],
                identity=content["identity"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"the library of blocks {path} cannot be read ({first_line(error)}); delete its folder to train again."
            ) from error


def build_library(
    inheritance: WeightInheritance,
    data: Dataset,
    *,
    settings: BlockwiseConfig,
    seed: int,
    folder: Path,
    device: torch.device | str = "cpu",
    on_begin: Callable[[int], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Library:
    """Train and score all alternatives of all blocks of a teacher; a finished library in ``folder`` is loaded instead.

    Training uses one thread, since alternatives are small. A checkpoint is saved once a minute, and resumed.

    Args:
        inheritance: the teacher, the space of its students, and the order of its units.
        data: the data set; only its training split is used, a part of which is held out for the scores.
        settings: of the alternatives and their training.
        seed: of the order of samples, of the held-out part, and of random weights.
        folder: of the library's files.
        device: of the teacher and the alternatives.
        on_begin: called with the number of alternatives before training, unless the library is finished already.
        on_step: called after each step with the number of finished steps and of all steps; an exception that it raises
            is passed on after the state is saved.

    Raises:
        ConfigError: there are too many alternatives; nothing was trained.
        SpaceError: the blocks cannot be trained separately.
        TrainingError: the folder belongs to another training.
        StorageError: the folder cannot be written.
    """
    alternatives = find_alternatives(inheritance.space, shared=settings.trunk, inner=settings.widths)
    identity = _identity(alternatives, inheritance, data, settings, seed)
    if (folder / CONTENT).exists():
        library = Library.load(folder)
        if library.identity != identity:
            raise TrainingError(
                f"The library of blocks in {folder} belongs to another training (settings, data, teacher or seed have "
                "changed); delete it to start again."
            )
        return library
    if on_begin is not None:
        on_begin(len(alternatives.entries))
    with torch_threads(1):
        training = LocalTraining(alternatives, inheritance, data, settings, seed=seed, identity=identity, device=device)
        training.load(folder)
        total = training.total_steps + len(alternatives.plan.blocks)
        training.train(folder, None if on_step is None else lambda step, _: on_step(step, total))
        training.save(folder)
        training.recalibrate_batch_norm()
        scores = _scores(training, folder, total, on_step)
        width_scores = {
            (group, width): score_width(training, inheritance, group, width)
            for group, widths in alternatives.read_outside().items()
            for width in widths
        }
        for module in training.modules.values():
            module.cpu()
        _save_weights(training.modules, folder / WEIGHTS)
        library = Library(
            folder=folder,
            alternatives=alternatives,
            scores=scores,
            width_scores=width_scores,
            costs=count_costs(alternatives, inheritance, training.modules),
            presented=training.presented,
            seconds=training.seconds,
            identity=identity,
        )
    library.save()
    training.delete_checkpoint(folder)
    (folder / SCORES).unlink(missing_ok=True)
    return library


def _scores(
    training: LocalTraining, folder: Path, total: int, on_step: Callable[[int, int], None] | None
) -> dict[str, LocalScores]:
    """Return the scores of all alternatives; those of finished blocks are saved, in case the process dies."""
    path = folder / SCORES
    found: dict[str, Any] = {}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = kept["scores"] if kept["identity"] == training.identity else {}
    for block in range(len(training.alternatives.plan.blocks)):
        if any(entry.key not in found for entry in training.alternatives.of_block(block)):
            found |= {key: _score_values(score) for key, score in score_block(training, block).items()}
            write_json(path, {"identity": training.identity, "scores": found})
        if on_step is not None:
            on_step(training.total_steps + block + 1, total)
    return {entry.key: _score(found[entry.key]) for entry in training.alternatives.entries}


def _save_weights(modules: Mapping[str, nn.Module], path: Path) -> None:
    tensors = {
        f"{key}/{name}": tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be written ({first_line(error)}); fix that, then resume.") from error


def _names(file: Any, prefix: str) -> list[str]:
    return [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is not a mapping


def _score_values(score: LocalScores) -> dict[str, float | None]:
    # JSON has no infinity.
    return {name: value if value < float("inf") else None for name, value in asdict(score).items()}


def _score(values: Mapping[str, float | None]) -> LocalScores:
    return LocalScores(**{name: float("inf") if value is None else value for name, value in values.items()})


def _identity(
    alternatives: Alternatives, inheritance: WeightInheritance, data: Dataset, settings: BlockwiseConfig, seed: int
) -> str:
    parts = [
        module_digest(inheritance.module),
        alternatives.to_dict(),
        {name: list(order) for name, order in sorted(inheritance.orders.items())},
        sorted(inheritance.moments),  # their values follow from the data and the module in this list
        settings.model_dump(mode="json", include=set(_TRAINED_BY)),
        [FORMAT, seed, data.fingerprint, data.views.recipe()],
    ]
    return json_digest(parts)
