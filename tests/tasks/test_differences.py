"""Differences in quality of two networks on the same samples, by task."""

import pytest
import torch

from nas_distill.evaluate.paired import paired_bootstrap, paired_proportions
from nas_distill.tasks import find_task
from nas_distill.tasks.classification import Classification


def samples(task, count=300):
    generator = torch.Generator().manual_seed(0)
    if task == "classification":
        labels = torch.randint(0, 3, (count,), generator=generator)
        wanted = torch.eye(3)[labels]
    else:
        labels = torch.rand(count, 3, generator=generator)
        labels = (labels > 0.6).float() if task == "multilabel" else labels
        wanted = labels
    one, other = (3 * wanted + noise * torch.randn(count, 3, generator=generator) for noise in (1.0, 3.0))
    return (one / 3, other / 3, labels) if task == "regression" else (one, other, labels)


@pytest.mark.parametrize("name", ["classification", "multilabel", "regression"])
def test_a_better_network_is_better_beyond_chance(name):
    task = find_task(name)
    one, other, labels = samples(name)
    found = task.difference(one, other, labels)
    assert found.difference == pytest.approx(task.quality(one, labels) - task.quality(other, labels))
    assert 0 < found.low < found.difference < found.high
    swapped = task.difference(other, one, labels)
    assert swapped.difference == pytest.approx(-found.difference)
    assert swapped.high < 0


class SecondBest(Classification):
    """A classification whose quality is another than accuracy."""

    name = "second_best"

    def quality(self, outputs, labels):
        """Return the share of samples whose label is among the two largest logits."""
        return float((outputs.topk(2, dim=1).indices == labels[:, None]).any(dim=1).double().mean())


def test_accuracies_are_compared_as_paired_proportions():
    one, other, labels = samples("classification")
    expected = paired_proportions(one.argmax(1) == labels, other.argmax(1) == labels)
    assert find_task("classification").difference(one, other, labels) == expected


def test_a_classification_with_another_quality_is_compared_by_it():
    task = SecondBest()
    one, other, labels = samples("classification")
    assert task.difference(one, other, labels) == paired_bootstrap(task.quality, one, other, labels)
