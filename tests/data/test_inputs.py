"""Samples of several tensors, tokens, and data without labels."""

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.data import Dataset, Views
from nas_distill.evaluate.predict import predict_logits
from nas_distill.utils.errors import DataError
from nas_distill.utils.inputs import Inputs, call

IDS = torch.arange(60).view(20, 3) % 7
MASK = torch.ones(20, 3, dtype=torch.bool)
LABELS = torch.arange(20) % 2


def named(**changes):
    return Dataset.from_tensors({"input_ids": IDS, "attention_mask": MASK} | changes, LABELS)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, attention_mask, input_ids):
        return {"logits": self.head((self.table(input_ids) * attention_mask[..., None]).mean(1))}


def test_a_batch_of_named_tensors_keeps_types_and_is_passed_as_keywords():
    x, y = named().batch("train", torch.tensor([0, 2]))

    assert {name: part.dtype for name, part in x.parts.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.bool,
    }
    assert len(x) == len(y) == 2
    assert call(Embedded(), x)["logits"].shape == (2, 3)


def test_a_tuple_is_passed_by_position():
    data = Dataset.from_tensors((MASK, IDS), LABELS)
    x, _ = data.batch("val", torch.arange(2))

    assert not x.named
    assert call(Embedded(), x)["logits"].shape == (2, 3)


def test_token_ids_are_not_scaled_and_give_real_examples():
    data = Dataset.from_tensors(IDS, LABELS)
    x, _ = data.batch("train", torch.arange(4))

    assert x.dtype == torch.int64
    assert torch.equal(data.example, data.batch("train", torch.arange(2))[0])
    assert Dataset.from_tensors(IDS.float(), LABELS).example == (3,)


def test_names_and_types_are_part_of_the_fingerprint():
    assert named().fingerprint == named().fingerprint
    assert named().fingerprint != named(attention_mask=MASK.long()).fingerprint
    assert Dataset.from_tensors({"a": IDS}, LABELS).fingerprint != Dataset.from_tensors({"b": IDS}, LABELS).fingerprint


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ({"a": IDS, "b": MASK[:3]}, {}, "same number of rows"),
        ({}, {}, "same number of rows"),
        ({"a": IDS, "b": np.array(["x"] * 20)}, {}, "b is <U1"),
        ({"a": IDS}, {"views": Views(pad=1)}, "remove 'views'"),
        (IDS, {"views": Views(pad=1)}, "remove 'views'"),
        ({"a": IDS}, {"mean": (0.5,), "std": (1.0,)}, "standardise one tensor"),
    ],
)
def test_invalid_inputs_are_refused(x, options, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_tensors(x, LABELS, **options)


def test_missing_labels_are_refused_with_the_way_to_do_without():
    with pytest.raises(DataError, match="unlabelled"):
        Dataset.from_tensors(IDS, None)


def test_predicted_classes_become_the_labels_of_unlabelled_data():
    torch.manual_seed(0)
    teacher = Embedded()
    data = Dataset.unlabelled({"input_ids": IDS, "attention_mask": MASK}, test=0.2)
    answered = data.answered_by(lambda batches: predict_logits(teacher, batches))

    assert not data.answered
    assert answered.num_classes == 3
    logits = predict_logits(teacher, answered.inputs("test"))
    assert torch.equal(answered.labels("test"), logits.argmax(1))
    assert answered.task == "imitation"


def test_outputs_become_the_targets_of_unlabelled_values():
    teacher = Embedded()
    data = Dataset.unlabelled({"input_ids": IDS, "attention_mask": MASK}, outputs="values")
    answered = data.answered_by(lambda batches: predict_logits(teacher, batches))

    assert torch.equal(answered.labels("val"), predict_logits(teacher, answered.inputs("val")))


def test_inputs_are_moved_split_and_indexed_together():
    x = Inputs.of({"a": torch.arange(6), "b": torch.arange(6.0)})

    assert [len(part) for part in x.split(4)] == [4, 2]
    assert x[torch.tensor([1, 3])].parts["b"].tolist() == [1.0, 3.0]
    assert x.to("cpu", memory_format=torch.channels_last).parts["a"].tolist() == list(range(6))
