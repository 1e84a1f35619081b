from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.blockwise.alternatives import Alternative
from nas_distill.blockwise.channels import restrict
from nas_distill.blockwise.training import LocalTraining
from nas_distill.config import OptimizerConfig
from nas_distill.data import Dataset
from nas_distill.distill.schedule import warmup_cosine
from nas_distill.utils.errors import StorageError, TrainingError


def weights(training: LocalTraining) -> dict[str, torch.Tensor]:
    return {
        f"{key}/{name}": value.clone()
        for key, module in training.modules.items()
        for name, value in module.state_dict().items()
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_training_equals_a_plain_loop(make_training, residual, tmp_path):
    training = make_training(epochs=1, optimizer=OptimizerConfig(name="sgd", lr=0.02, momentum=0.5, clip=None))
    entry = Alternative(2, "whole", 4, 8, (4,))
    ends = training.ends[entry.key]
    by_hand = residual.inheritance.pruned_teacher(
        residual.alternatives().partial_cut({2: entry}, {"stem.0": 4, "blocks.2.body.3": 8})
    )
    block = by_hand.get_submodule("blocks.2").train()
    decayed = [weight for weight in block.parameters() if weight.dim() > 1]
    free = [weight for weight in block.parameters() if weight.dim() == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": free, "weight_decay": 0.0}],
        lr=0.02, momentum=0.5, nesterov=True,
    )  # fmt: skip
    steps = list(training._batches(training.total_steps))
    for step, (index, view) in enumerate(steps):
        x = training.data.batch("train", index, view)[0]
        teacher = residual.inheritance.module
        with torch.no_grad():
            given = teacher.blocks[1](teacher.blocks[0](teacher.stem(x)))
            made = teacher.blocks[2](given)
        target = restrict(made, ends.output, 1)
        variance = training.statistics[2].variance[ends.output].view(1, -1, 1, 1)
        loss = ((block(given[:, ends.input]) - target) ** 2 / variance).mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * warmup_cosine((step + 0.5) / len(steps), 0.1)
        optimizer.step()
    training.train(tmp_path)
    assert len(steps) == training.step == 4
    for name, value in training.modules[entry.key].state_dict().items():
        torch.testing.assert_close(value, block.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)


def test_alternatives_do_not_affect_each_other(make_training, residual, tmp_path):
    """An alternative's weights are bit-identical whatever other alternatives are trained."""
    every = residual.alternatives()
    few = replace(every, entries=tuple(one for one in every.entries if one.block == 1))
    together, alone = make_training(every), make_training(few)
    together.train(tmp_path / "a")
    alone.train(tmp_path / "b")
    everything, apart = weights(together), weights(alone)
    assert apart
    assert same({key: everything[key] for key in apart}, apart)


def test_training_reduces_the_loss(make_training, tmp_path):
    from nas_distill.blockwise.scoring import score_block

    optimizer = OptimizerConfig(name="adamw", lr=0.01, weight_decay=0.0)
    before, after = make_training(epochs=0), make_training(epochs=12, optimizer=optimizer)
    for training in (before, after):
        training.train(tmp_path)
        training.recalibrate_batch_norm()
    trained = {entry.key for entry in after.changed if entry.replacement != "drop"}
    for block in range(3):
        first, then = score_block(before, block), score_block(after, block)
        for key in first.keys() - trained:
            assert first[key] == pytest.approx(then[key])
        for score in ("nsr", "relative_l1"):
            sums = [sum(getattr(scores[key], score) for key in first.keys() & trained) for scores in (first, then)]
            assert sums[1] < 0.8 * sums[0]


def test_a_resumed_training_equals_an_uninterrupted_one(make_training, tmp_path):
    whole = make_training()
    whole.train(tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop_at(step: int, total: int) -> None:
        assert total == 8
        if step == 3:
            raise StopError

    stopped = make_training()
    with pytest.raises(StopError):
        stopped.train(tmp_path / "parts", stop_at)
    again = make_training()
    assert again.load(tmp_path / "parts")
    assert again.step == 3
    again.train(tmp_path / "parts")
    assert same(weights(again), weights(whole))
    assert again.presented == whole.presented == 8 * 32


def test_checkpoints_are_saved_regularly(make_training, tmp_path, monkeypatch):
    import nas_distill.blockwise.training as module

    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    make_training(epochs=1).train(tmp_path)
    again = make_training(epochs=1)
    assert again.load(tmp_path)
    assert again.step == again.total_steps
    again.delete_checkpoint(tmp_path)
    assert not again.load(tmp_path)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(make_training, tmp_path):
    training = make_training()
    training.save(tmp_path)
    other = make_training()
    other.identity = "another"
    with pytest.raises(TrainingError, match="belongs to another training"):
        other.load(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"torn")
    with pytest.raises(TrainingError, match="is damaged"):
        training.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        training.save(tmp_path / "file")


def test_the_teacher_runs_once_per_batch(make_training, tmp_path):
    training = make_training()
    calls = []
    training.teacher.register_forward_hook(lambda *_: calls.append(1))
    training.train(tmp_path)
    assert len(calls) == training.total_steps == 8


def test_training_uses_only_views_of_training_samples_that_are_not_held_out(make_training, monkeypatch, tmp_path):
    from nas_distill.blockwise.scoring import score_block

    asked: list[tuple[str, frozenset[int], int | None]] = []
    batch = Dataset.batch

    def spy(self, split, index, view=None):
        asked.append((split, frozenset(index.tolist()), view))
        return batch(self, split, index, view)

    monkeypatch.setattr(Dataset, "batch", spy)
    training = make_training()
    held = set(training.heldout.tolist())
    assert len(held) == 32
    asked.clear()
    training.train(tmp_path)
    assert all(split == "train" and not held & index for split, index, _ in asked)
    assert [view for _, _, view in asked] == [0] * 4 + [1] * 4
    assert frozenset.union(*(index for _, index, _ in asked[:4])) == set(range(160)) - held
    training.recalibrate_batch_norm()
    assert all(split == "train" and not held & index for split, index, _ in asked)
    asked.clear()
    score_block(training, 0)
    assert frozenset.union(*(index for _, index, _ in asked)) == held
    assert {(split, view) for split, _, view in asked} == {("train", None)}


def test_held_out_samples_and_those_of_statistics_come_from_the_whole_split(make_training, monkeypatch):
    """A split may be sorted by class, so neither may be a contiguous part of it."""
    monkeypatch.setattr("nas_distill.blockwise.training.STATISTICS", 64)
    monkeypatch.setattr("nas_distill.blockwise.training.BATCH", 32)
    asked = []
    training = make_training()
    monkeypatch.setattr(training, "batch", lambda index, view=None: asked.extend(index.tolist()))
    list(training.statistics_batches())
    assert len(asked) == 64
    for decisions in (asked, training.heldout.tolist()):
        quarters = np.bincount(np.array(decisions) // 40, minlength=4)
        assert quarters.min() >= len(decisions) // 10


def test_trained_weights_depend_on_the_seed(make_training, tmp_path):
    first, second = make_training(epochs=1), make_training(epochs=1, seed=1)
    assert first.heldout.tolist() != second.heldout.tolist()
    first.train(tmp_path)
    second.train(tmp_path)
    assert not same(weights(first), weights(second))


def test_exact_slices_of_the_teachers_blocks_are_not_trained(make_training, residual, tmp_path):
    training = make_training()
    training.train(tmp_path)
    training.recalibrate_batch_norm()
    exact = [entry.key for entry in training.alternatives.entries if entry not in training.changed]
    assert exact == [
        "block0-whole-in8-out8-8",
        "block1-whole-in8-out8-8",
        "block2-whole-in8-out8-16",
        "block2-whole-in8-out16-16",
    ]
    own = training.modules["block2-whole-in8-out16-16"].state_dict()
    for name, value in residual.inheritance.module.blocks[2].state_dict().items():
        assert torch.equal(own[name], value)


def test_training_does_not_change_the_teacher(make_training, residual, tmp_path):
    before = {name: value.clone() for name, value in residual.inheritance.module.state_dict().items()}
    training = make_training()
    training.train(tmp_path)
    training.recalibrate_batch_norm()
    for module in (residual.inheritance.module, training.teacher):
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_an_alternative_without_a_finite_loss_does_not_stop_the_others(make_training, tmp_path):
    whole, broken = make_training(epochs=1), make_training(epochs=1)
    key = "block0-whole-in4-out4-4"
    with torch.no_grad():
        next(broken.modules[key].parameters()).fill_(float("inf"))
    whole.train(tmp_path)
    broken.train(tmp_path)
    ours, theirs = weights(whole), weights(broken)
    assert same(*({name: one[name] for name in one if not name.startswith(key)} for one in (ours, theirs)))


def test_dropout_is_disabled_in_training(make_case, make_training, data, tmp_path):
    case = make_case("transformer")
    few = make_training().settings.model_copy(update={"epochs": 1, "widths": (1.0,), "trunk": (1.0,)})
    training = LocalTraining(case.alternatives(few), case.inheritance, data, few, seed=0)
    before = weights(training)
    training.train(tmp_path)
    # The only alternatives beside linear ones are the teacher's own blocks, which would differ by dropout.
    assert any(isinstance(part, nn.Dropout) for module in training.modules.values() for part in module.modules())
    assert not any(part.training for module in training.modules.values() for part in module.modules())
    assert not same(weights(training), before)
