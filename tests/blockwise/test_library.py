from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from nas_distill.blockwise.library import Library, LocalWeights, build_library
from nas_distill.blockwise.scoring import Score
from nas_distill.config import OptimizerConfig
from nas_distill.pruning.plan import UNPRUNED
from nas_distill.utils.errors import RunError, TrainingError
from nas_distill.utils.seeds import seeded_torch


@pytest.fixture
def build(residual, data, make_training, tmp_path):
    """Builds a library of few alternatives; keywords stand in for settings."""

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


def test_it_is_read_back_as_it_was_made(library):
    again = Library.load(library.folder)
    assert again == library
    assert again.presented == 2 * 128
    assert sorted(path.name for path in library.folder.iterdir()) == ["library.json", "weights.safetensors"]
    assert again.scores.keys() == {entry.key for entry in again.alternatives.entries} == again.costs.entries.keys()


def test_a_student_gets_its_blocks_from_the_library_and_all_else_from_the_teacher(library, residual):
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


def test_trained_blocks_answer_more_like_the_teacher_than_inherited_ones(residual, data, build):
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
    for block, width in ((1, 4), (2, 8)):  # of the third a share that was not asked for
        (group,) = residual.plan.inner(block)
        cut = residual.cuts.with_width(cut, group.name, width)
    network, inherited = student(residual, cut), student(residual, cut)
    assert library.start(network, cut) == 1
    for name, weight in network.blocks[2].state_dict().items():
        assert torch.equal(weight, inherited.blocks[2].state_dict()[name])


def test_blocks_that_diverged_in_their_training_are_not_taken(library, residual):
    cut = residual.cuts.unpruned
    diverged = {**library.scores, "block1-whole-in8-out8-8": Score(math.inf, math.inf, math.inf)}
    assert library.start(student(residual, cut), cut) == 3
    assert replace(library, scores=diverged).start(student(residual, cut), cut) == 2


def test_a_student_that_starts_at_random_is_left_as_it_is(library, residual):
    cut = residual.cuts.unpruned
    network = student(residual, cut)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert library.start(network, replace(cut, start="random")) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_finished_library_is_not_made_again_and_another_one_is_not_taken_for_it(build):
    steps: list = []
    first = build(on_begin=steps.append, on_step=lambda done, total: steps.append((done, total)))
    number, *steps = steps
    assert number == len(first.scores)
    assert steps == [(done, 7) for done in range(1, 8)]  # four steps, and the scores of three blocks
    steps.clear()
    assert build(on_begin=steps.append, on_step=lambda *step: steps.append(step)) == first
    assert build(solutions=3, overlap=0.5, score="nsr") == first  # what they choose is no part of it
    assert not steps
    for changes in ({"seed": 1}, {"epochs": 2}, {"heldout": 31}):
        with pytest.raises(TrainingError, match="is of another training"):
            build(**changes)


def test_a_kill_loses_little_and_changes_nothing(build, tmp_path):
    class StopError(Exception):
        pass

    def stop_at(place):
        def on_step(done, total):
            if done == place:
                raise StopError

        return on_step

    for place in (2, 5, 6):  # in the training, and between the scores of blocks
        with pytest.raises(StopError):
            build(on_step=stop_at(place))
    assert len(json.loads((tmp_path / "library" / "scores.json").read_text())["scores"]) > 3
    stopped = build()
    weights = {entry.key: stopped.weights(entry) for entry in stopped.alternatives.entries}
    (tmp_path / "library" / "library.json").unlink()
    whole = build()
    assert (whole.scores, whole.costs, whole.presented) == (stopped.scores, stopped.costs, stopped.presented)
    for entry in whole.alternatives.entries:
        assert all(torch.equal(value, weights[entry.key][name]) for name, value in whole.weights(entry).items())


def test_scores_that_are_not_finite_survive_the_folder(library, tmp_path):
    scores = {**library.scores, "block0-whole-in4-out4-4": Score(math.inf, math.inf, math.inf)}
    broken = replace(library, folder=tmp_path, scores=scores)
    broken.save()
    assert Library.load(tmp_path) == broken


def test_folders_without_a_library_or_weights_are_said_so(library, tmp_path):
    with pytest.raises(RunError, match="is no library of blocks"):
        Library.load(tmp_path)
    (tmp_path / "library.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="its format is 99"):
        Library.load(tmp_path)
    with pytest.raises(RunError, match="cannot be read"):
        replace(library, folder=tmp_path).weights(library.alternatives.entries[0])


def test_the_number_of_threads_is_given_back(build):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        seen = []
        build(on_step=lambda *_: seen.append(torch.get_num_threads()))
        assert set(seen) == {1}
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_widths_that_something_outside_of_the_blocks_reads_are_scored(build, make_case):
    library = build(case=make_case("mobile"), trunk=(0.5, 1.0))
    assert library.width_scores.keys() == {
        (group, width) for group, widths in library.alternatives.read_outside().items() for width in widths
    }
    assert Library.load(library.folder) == library
