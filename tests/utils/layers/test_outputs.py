from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers import logits_of, tensor_of

LOGITS = torch.zeros(2, 5)
LOSS = torch.tensor(1.0)
MAPS = torch.zeros(2, 4, 3, 3)


class ModelOutput(OrderedDict):
    """A model output like Hugging Face's: a mapping whose keys are also attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class Fields:
    loss: torch.Tensor
    scores: torch.Tensor


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOSS, LOGITS, MAPS),
        [LOGITS],
        {"maps": MAPS, "logits": LOGITS},
        {"loss": LOSS, "out": LOGITS},
        {"logits": None, "out": LOGITS},
        Fields(LOSS, LOGITS),
        ModelOutput(loss=LOSS, hidden_states=(MAPS,), logits=LOGITS),
        namedtuple("Inception", "maps logits")(MAPS, LOGITS),
        SimpleNamespace(logits=LOGITS),
        ([LOSS, {"a": LOGITS}],),
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_found_in_outputs_of_any_form(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [LOSS, None, {"loss": LOSS}, "text", [], Fields(LOSS, LOSS)])
def test_missing_logits_are_reported_with_the_output(output):
    with pytest.raises(TrainingError, match=r"No logits were found .*under the name"):
        logits_of(output)


def test_tensor_of_returns_the_first_tensor_of_any_shape():
    assert tensor_of(LOSS) is LOSS
    assert tensor_of((None, {"a": LOSS, "b": MAPS})) is LOSS
    with pytest.raises(TrainingError, match=r"The output of layer 'a' contains no tensor \(dict with x\)"):
        tensor_of({"x": 1}, what="The output of layer 'a'")
