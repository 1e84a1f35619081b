import math

import numpy as np
import pytest
import torch

from nas_distill.distill.losses.crd import nce_loss
from nas_distill.utils.errors import ConfigError, TrainingError

SMALL = {"dim": 3, "negatives": 5, "tau": 0.5}


def by_hand(case, ours, theirs, index, banks, normal, seed):
    """The loss in the form of probabilities, its negatives drawn as the module draws them."""
    samples, negatives = case.samples, case.module.negatives
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = torch.randint(samples - 1, (len(index), negatives)).numpy()
    weights = [np.asarray(weight.detach(), dtype=np.float64) for weight in case.module.parameters()]
    total, noise, means = 0.0, negatives / samples, []
    for side, value in enumerate((ours, theirs)):
        embedded = value @ weights[2 * side].T + weights[2 * side + 1]
        embedded = embedded / np.sqrt((embedded**2).sum(axis=1, keepdims=True))
        bank = banks[1 - side]
        probabilities = []
        for i, own in enumerate(index):
            others = [place + (place >= own) for place in drawn[i]]
            probabilities.append([math.exp(embedded[i] @ bank[j] / case.module.tau) for j in (own, *others)])
        probabilities = np.array(probabilities)
        means.append(probabilities.mean() * samples)
        probabilities = probabilities / (means[side] if normal is None else normal[side])
        total -= np.log(probabilities[:, 0] / (probabilities[:, 0] + noise)).sum() / len(index)
        total -= np.log(noise / (probabilities[:, 1:] + noise)).sum() / len(index)
    return total, means


def test_it_is_the_formula_and_the_normaliser_stays_that_of_the_first_batch(make_case, as_numpy):
    case = make_case("crd", [(4,)], [(6, 2, 2)], **SMALL)
    normal = None
    for step in range(3):
        ours, theirs = case.draw(3, seed=step)
        index = torch.tensor([7, 0, 11])
        banks = np.asarray(case.module.banks, dtype=np.float64)
        value = case(ours, theirs, index=index, seed=step)
        pooled = theirs[0].mean(dim=(2, 3))
        expected, means = by_hand(case, *as_numpy([ours[0], pooled]), index.tolist(), banks, normal, step)
        normal = means if normal is None else normal
        assert float(value.detach()) == pytest.approx(expected, rel=1e-9)


def test_a_value_worked_out_by_hand():
    # Two samples and one negative: c = 1/2. P = 1/2 for both: log 2 each.
    scores = torch.full((4, 2), math.log(0.5), dtype=torch.float64)
    assert float(nce_loss(scores, 2)) == pytest.approx(2 * math.log(2), rel=1e-12)
    # P = 1 for the own, 0 for the other: log((1 + 1/2) / 1).
    scores = torch.tensor([[0.0, -1e9]], dtype=torch.float64)
    assert float(nce_loss(scores, 2)) == pytest.approx(math.log(1.5), rel=1e-12)
    # The sum over negatives and the mean over the batch.
    assert float(nce_loss(torch.zeros(6, 9).double(), 8)) == pytest.approx(9 * math.log(2), rel=1e-12)


def test_the_banks_remember_the_batch_by_momentum(make_case):
    case = make_case("crd", [(4,)], [(5,)], **SMALL, momentum=0.25)
    before = case.module.banks.clone()
    ours, theirs = case.draw(2)
    index = torch.tensor([3, 8])
    case(ours, theirs, index=index)
    for side, value in enumerate((ours[0], theirs[0])):
        embedded = torch.nn.functional.normalize(case.module.embeddings[side](value))
        expected = torch.nn.functional.normalize(0.25 * before[side, index] + 0.75 * embedded)
        torch.testing.assert_close(case.module.banks[side, index], expected.detach())
    others = [place for place in range(12) if place not in (3, 8)]
    assert torch.equal(case.module.banks[:, others], before[:, others])
    assert {"banks", "log_normal", "normal_known"} <= set(case.module.state_dict())
    assert not case.module.banks.requires_grad


def test_in_eval_mode_nothing_is_remembered(make_case):
    case = make_case("crd", [(4,)], [(5,)], **SMALL)
    before = {key: value.clone() for key, value in case.module.state_dict().items()}
    case.module.eval()
    case(*case.draw(2))
    assert all(torch.equal(before[key], value) for key, value in case.module.state_dict().items())


def test_negatives_are_all_others_alike_and_never_the_own(make_case):
    case = make_case("crd", [(4,)], [(5,)], dim=3, negatives=6000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = case.module._rows(torch.tensor([0, 5, 11]))
    for row, own in zip(rows, (0, 5, 11)):
        assert int(row[0]) == own
        counts = torch.bincount(row[1:], minlength=12)
        assert int(counts[own]) == 0
        others = counts[counts > 0].double()
        assert len(others) == 11
        # Even: chi-square of 10 degrees of freedom.
        assert float(((others - 6000 / 11) ** 2 / (6000 / 11)).sum()) < 35


def test_as_many_negatives_as_the_paper_or_as_there_are(make_case):
    assert make_case("crd", [(4,)], [(5,)], dim=2).module.negatives == 11
    assert make_case("crd", [(4,)], [(5,)], dim=2, samples=20_000).module.negatives == 16384


def test_the_banks_start_near_the_unit_sphere(make_case):
    banks = make_case("crd", [(4,)], [(5,)], samples=500).module.banks
    assert float(banks.square().sum(dim=2).mean()) == pytest.approx(1, abs=0.02)
    assert banks.shape == (2, 500, 128)


def test_gradient(make_case):
    case = make_case("crd", [(4,)], [(5,)], **SMALL)
    case(*case.draw(4))
    case.module.eval()
    case.check_gradient()


def test_training_brings_the_two_sides_of_a_sample_together(make_case):
    case = make_case("crd", [(4,)], [(4,)], dim=4, dtype=torch.float32)
    ours, theirs = case.draw(12)
    optimizer = torch.optim.Adam(case.module.parameters(), lr=0.05)
    values = []
    for step in range(60):
        value = case(ours, theirs, seed=step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0] / 2


def test_stability(make_case):
    case = make_case("crd", [(4,)], [(5,)], dtype=torch.float32, dim=3)
    case(*case.draw(4))
    case.module.eval()
    case.check_stability()
    cold = make_case("crd", [(4,)], [(5,)], dtype=torch.float32, tau=0.001)
    ours, theirs = cold.draw(4)
    ours[0].requires_grad_()
    for _ in range(3):
        value = cold(ours, theirs)
        assert torch.isfinite(value)
        value.backward()
        assert torch.isfinite(ours[0].grad).all()
    assert torch.isfinite(cold.module.banks).all()


def test_what_does_not_fit_is_refused(make_case):
    with pytest.raises(TrainingError, match="'crd' compares one pair of layers, but got 2"):
        make_case("crd", [(4,), (4,)], [(5,), (5,)])
    with pytest.raises(TrainingError, match="needs at least 2"):
        make_case("crd", [(4,)], [(5,)], samples=1)
    with pytest.raises(ConfigError, match="'tau'"):
        make_case("crd", [(4,)], [(5,)], tau=0.0)
