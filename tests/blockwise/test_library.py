from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from nas_distill.blockwise.library import Library, LocalWeights, build_library
from nas_distill.blockwise.scoring import LocalScores
from nas_distill.config import OptimizerConfig
from nas_distill.pruning.plan import UNPRUNED
from nas_distill.utils.errors import RunError, TrainingError
from nas_distill.utils.seeds import seeded_torch


@pytest.fixture
def build(residual, data, make_training, tmp_path):
    """Return a function that builds a library of few alternatives; keywords override settings."""

    def make(seed=0, on_step=None, on_begin=None, case=residual, **changes):
        settings = make_training(epochs=0).settings.model_copy(update={"trunk": (1.0,), "epochs": 1, **changes})
        return build_library(
            case.inheritance,
            data,
            settings=settings,
            seed=seed,
            folder=tmp_path / "library",
            on_begin=on_begin,
            on_step=on_step,
        )

    return make


def student(case, cut):
    architecture = case.cuts.encode(cut)
    with seeded_torch(1, "student"):
        network = case.space.build(architecture, input_shape=(1, 8, 8), num_classes=10)
    case.inheritance.fill(network, architecture)
    return network.eval()


def test_a_library_round_trips(library):
    again = Library.load(library.folder)
    assert again == library
    assert again.presented == 2 * 128
    assert sorted(path.name for path in library.folder.iterdir()) == ["library.json", "weights.safetensors"]
    assert again.scores.keys() == {entry.key for entry in again.alternatives.entries} == again.costs.entries.keys()


def test_a_student_gets_blocks_from_the_library_and_the_rest_from_the_teacher(library, residual):
    found = library.alternatives
    widths = {"stem.0": 4, "blocks.2.body.3": 8}
    chosen = [
        next(
            one
            for one in found.of_block(block)
            if one.replacement == replacement and found.widths(one).items() <= widths.items()
        )
        for block, replacement in enumerate([UNPRUNED, "separable", UNPRUNED])
    ]
    cut = found.cut(chosen, widths)
    network, inherited = student(residual, cut), student(residual, cut)
    assert library.start(network, cut) == 3
    for block, entry in enumerate(chosen):
        for name, weight in network.blocks[block].state_dict().items():
            assert torch.equal(weight, library.weights(entry)[name])
    for part in ("stem", "head"):
        for name, weight in network.get_submodule(part).state_dict().items():
            assert torch.equal(weight, inherited.get_submodule(part).state_dict()[name])


def test_trained_blocks_agree_more_with_the_teacher_than_inherited_ones(residual, data, build):
    library = build(epochs=40, optimizer=OptimizerConfig(name="adamw", lr=0.01, weight_decay=0.0))
    chosen = [
        next(one for one in library.alternatives.of_block(block) if one.replacement == "whole") for block in range(3)
    ]
    assert [one.inner for one in chosen] == [(4,), (4,), (4,)]
    cut = library.alternatives.cut(chosen, {"stem.0": 8, "blocks.2.body.3": 16})
    ours, inherited = student(residual, cut), student(residual, cut)
    LocalWeights(residual.inheritance, library).fill(ours, residual.cuts.encode(cut))
    x, _ = data.batch("val", torch.arange(40))
    with torch.no_grad():
        wanted = residual.inheritance.module.blocks(residual.inheritance.module.stem(x))
        errors = [
            float((network.blocks(network.stem(x)) - wanted).square().mean()) for network in (ours.eval(), inherited)
        ]
    assert errors[0] < 0.8 * errors[1]


def test_dropped_blocks_and_those_that_the_library_lacks_stay_inherited(library, residual):
    cut = residual.cuts.without_block(residual.cuts.unpruned, 0)
    for block, width in ((1, 4), (2, 8)):  # the third has a share that the library lacks
        (group,) = residual.plan.inner(block)
        cut = residual.cuts.with_width(cut, group.name, width)
    network, inherited = student(residual, cut), student(residual, cut)
    assert library.start(network, cut) == 1
    for name, weight in network.blocks[2].state_dict().items():
        assert torch.equal(weight, inherited.blocks[2].state_dict()[name])


def test_blocks_whose_training_diverged_are_not_used(library, residual):
    cut = residual.cuts.unpruned
    diverged = {**library.scores, "block1-whole-in8-out8-8": LocalScores(math.inf, math.inf, math.inf)}
    assert library.start(student(residual, cut), cut) == 3
    assert replace(library, scores=diverged).start(student(residual, cut), cut) == 2


def test_a_student_with_random_weights_is_not_changed(library, residual):
    cut = residual.cuts.unpruned
    network = student(residual, cut)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert library.start(network, replace(cut, start="random")) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_finished_library_is_reused_and_another_one_is_refused(build):
    steps: list = []
    first = build(on_begin=steps.append, on_step=lambda done, total: steps.append((done, total)))
    number, *steps = steps
    assert number == len(first.scores)
    assert steps == [(done, 7) for done in range(1, 8)]  # four steps, and the scores of three blocks
    steps.clear()
    assert build(on_begin=steps.append, on_step=lambda *step: steps.append(step)) == first
    assert (
        build(solutions=3, overlap=0.5, score="nsr") == first
    )  # settings of the assembly are not part of the identity
    assert not steps
    for changes in ({"seed": 1}, {"epochs": 2}, {"heldout": 31}):
        with pytest.raises(TrainingError, match="another training"):
            build(**changes)


def test_a_killed_build_resumes_to_the_same_library(build, tmp_path):
    class StopError(Exception):
        pass

    def stop_at(stop):
        def on_step(done, total):
            if done == stop:
                raise StopError

        return on_step

    for stop in (2, 5, 6):  # in the training, and between the scores of blocks
        with pytest.raises(StopError):
            build(on_step=stop_at(stop))
    assert len(json.loads((tmp_path / "library" / "scores.json").read_text())["scores"]) > 3
    stopped = build()
    weights = {entry.key: stopped.weights(entry) for entry in stopped.alternatives.entries}
    (tmp_path / "library" / "library.json").unlink()
    again = build()
    assert (again.scores, again.costs, again.presented) == (stopped.scores, stopped.costs, stopped.presented)
    for entry in again.alternatives.entries:
        assert all(torch.equal(value, weights[entry.key][name]) for name, value in again.weights(entry).items())


def test_scores_that_are_not_finite_survive_the_folder(library, tmp_path):
    scores = {**library.scores, "block0-whole-in4-out4-4": LocalScores(math.inf, math.inf, math.inf)}
    broken = replace(library, folder=tmp_path, scores=scores)
    broken.save()
    assert Library.load(tmp_path) == broken


def test_folders_without_a_library_or_weights_are_reported(library, tmp_path):
    with pytest.raises(RunError, match="library of blocks"):
        Library.load(tmp_path)
    (tmp_path / "library.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="its format is 99"):
        Library.load(tmp_path)
    with pytest.raises(RunError, match="cannot be read"):
        replace(library, folder=tmp_path).weights(library.alternatives.entries[0])


def test_the_number_of_threads_is_restored(build):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        seen = []
        build(on_step=lambda *_: seen.append(torch.get_num_threads()))
        assert set(seen) == {1}
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_widths_read_outside_of_the_blocks_are_scored(build, make_case):
    library = build(case=make_case("mobile"), trunk=(0.5, 1.0))
    assert library.width_scores.keys() == {
        (group, width) for group, widths in library.alternatives.read_outside().items() for width in widths
    }
    assert Library.load(library.folder) == library
