from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional

from nas_distill.blockwise.scoring import LocalScores, score_block, score_width
from nas_distill.blockwise.training import LocalTraining

SETTLED = "block1-whole-in4-out4-4"


@pytest.fixture
def settled(make_training, tmp_path):
    training = make_training(epochs=1)
    training.train(tmp_path)
    training.recalibrate_batch_norm()
    return training


def test_scores_equal_their_definitions(settled, residual, data):
    """An independent computation, with the alternative inserted into the teacher as a module."""
    found = score_block(settled, 1)[SETTLED]
    teacher, ends, signal = residual.inheritance.module, settled.ends[SETTLED], settled.statistics[1]

    class Standing(torch.nn.Module):
        """Completes the alternative's output with the teacher's channels."""

        def forward(self, x):
            made = teacher.blocks[1](x)
            made[:, ends.output] = settled.modules[SETTLED](x[:, ends.input])
            return made

    replaced = copy.deepcopy(teacher)
    replaced.blocks[1] = Standing()
    x, _ = data.batch("train", settled.heldout)
    with torch.no_grad():
        given = teacher.blocks[0](teacher.stem(x))
        error = (replaced.blocks[1](given) - teacher.blocks[1](given))[:, ends.output]
        ours, wanted = replaced(x).log_softmax(1), teacher(x).log_softmax(1)
    nsr = (error.square().mean((0, 2, 3)) / signal.variance[ends.output]).mean()
    kl = functional.kl_div(ours, wanted, reduction="batchmean", log_target=True)
    assert found.nsr == pytest.approx(float(nsr), rel=1e-4)
    assert found.relative_l1 == pytest.approx(float(error.abs().mean()) / signal.deviation, rel=1e-4)
    assert found.kl == pytest.approx(float(kl), rel=1e-4, abs=1e-6)
    assert found.kl > 0


def test_the_teachers_own_block_has_zero_scores(settled):
    for block, key in enumerate(["block0-whole-in8-out8-8", "block1-whole-in8-out8-8", "block2-whole-in8-out16-16"]):
        assert score_block(settled, block)[key] == LocalScores(0.0, 0.0, 0.0)


def test_channels_means_and_variances_are_those_of_the_teacher(settled, residual, data):
    x = torch.cat(list(settled.statistics_batches()))
    with torch.no_grad():
        made = residual.inheritance.module.blocks[0](residual.inheritance.module.stem(x)).double()
    signal = settled.statistics[0]
    variance = made.var((0, 2, 3), correction=0)
    torch.testing.assert_close(signal.mean.double(), made.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        signal.variance.double(), variance.clamp_min(0.01 * float(variance.mean())), rtol=1e-4, atol=1e-6
    )
    assert signal.deviation == pytest.approx(float(made.std(correction=0)), rel=1e-4)


def test_a_block_without_finite_outputs_has_no_finite_score(settled):
    with torch.no_grad():
        for weight in settled.modules[SETTLED].parameters():
            weight.fill_(float("nan"))
    scores = score_block(settled, 1)
    assert scores[SETTLED] == LocalScores(math.inf, math.inf, math.inf)
    assert all(math.isfinite(score.kl) for key, score in scores.items() if key != SETTLED)


def test_removed_inputs_of_the_classifier_are_scored_at_the_logits(settled, residual, data):
    """An independent computation: removed channels are at their mean for the classifier."""
    found = score_width(settled, residual.inheritance, "blocks.2.body.3", 8)
    teacher, kept = residual.inheritance.module, sorted(residual.inheritance.orders["blocks.2.body.3"][:8])
    x, _ = data.batch("train", settled.heldout)
    with torch.no_grad():
        made = teacher.blocks(teacher.stem(x))
        narrow = settled.statistics[2].mean.view(1, -1, 1, 1).expand_as(made).clone()
        narrow[:, kept] = made[:, kept]
        ours, wanted = teacher.head(narrow), teacher.head(made)
        seen = torch.cat([teacher(one) for one in settled.statistics_batches()]).var(0, correction=0)
    kl = functional.kl_div(ours.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
    assert found.kl == pytest.approx(float(kl), rel=1e-3)
    nsr = ((ours - wanted).square().mean(0) / seen.clamp_min(0.01 * float(seen.mean()))).mean()
    assert found.nsr == pytest.approx(float(nsr), rel=1e-3)
    assert score_width(settled, residual.inheritance, "blocks.2.body.3", 16) == LocalScores(0.0, 0.0, 0.0)


def test_a_width_outside_of_all_blocks_is_scored_by_pruning_only_it(make_case, make_training, data):
    case = make_case("mobile")
    settings = make_training().settings
    training = LocalTraining(case.alternatives(), case.inheritance, data, settings, seed=0)
    found = score_width(training, case.inheritance, "features.0", 16)
    pruned = case.inheritance.pruned_teacher(training.alternatives.partial_cut({}, {"features.0": 16}))
    x, _ = data.batch("train", training.heldout)
    statistics_batches = torch.cat(list(training.statistics_batches()))
    with torch.no_grad():
        for norm in (part for part in pruned.modules() if isinstance(part, torch.nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        pruned(statistics_batches)
        ours, wanted = pruned.eval()(x).log_softmax(1), case.inheritance.module(x).log_softmax(1)
    kl = functional.kl_div(ours, wanted, reduction="batchmean", log_target=True)
    assert found.kl == pytest.approx(float(kl), rel=1e-3)


@pytest.mark.parametrize("name", ["transformer", "turned", "grouped norms", "concatenating", "mobile"])
def test_all_kinds_of_blocks_are_scored(make_case, make_training, data, tmp_path, name):
    case = make_case(name)
    training = LocalTraining(case.alternatives(), case.inheritance, data, make_training(epochs=1).settings, seed=0)
    training.train(tmp_path)
    training.recalibrate_batch_norm()
    for block in range(len(case.plan.blocks)):
        scores = score_block(training, block)
        assert scores.keys() == {entry.key for entry in training.alternatives.of_block(block)}
        for entry in training.alternatives.of_block(block):
            score = scores[entry.key]
            if entry in training.changed:
                assert 0 < score.nsr < math.inf
                assert 0 <= score.kl < math.inf
            else:
                assert max(score.nsr, score.relative_l1, score.kl) < 1e-4
    for group, widths in training.alternatives.read_outside().items():
        lost = [score_width(training, case.inheritance, group, width).nsr for width in widths]
        assert lost == sorted(lost, reverse=True)
        assert lost[0] > lost[-1] == 0
