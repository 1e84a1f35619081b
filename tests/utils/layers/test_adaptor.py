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
    """As Hugging Face's: a mapping whose keys are attributes too."""

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
def test_logits_are_found_in_what_networks_return(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [LOSS, None, {"loss": LOSS}, "text", [], Fields(LOSS, LOSS)])
def test_without_logits_the_error_says_what_was_returned_and_what_to_do(output):
    with pytest.raises(TrainingError, match=r"No logits were found in what the network returns .*under the name"):
        logits_of(output)


def test_a_layer_gives_its_first_tensor_of_any_shape():
    assert tensor_of(LOSS) is LOSS
    assert tensor_of((None, {"a": LOSS, "b": MAPS})) is LOSS
    with pytest.raises(TrainingError, match=r"The output of layer 'a' holds no tensor \(dict with x\)"):
        tensor_of({"x": 1}, what="The output of layer 'a'")
