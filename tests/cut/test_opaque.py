"""Networks that torch-pruning cannot read as a whole."""

import copy

import pytest
import torch
from torch import nn

from nas_distill.cut.find import find_plan
from nas_distill.cut.opaque import RecurrentStandIn, longest_prefix
from nas_distill.cut.plan import KeptUnits
from nas_distill.cut.surgery import prune
from tests.cut.networks import SHAPE, Recurrent, images


def sizes(plan):
    return {group.name: group.size for group in plan.groups}


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize(
    ("columns", "inputs"),
    [
        (lambda x: x.permute(0, 3, 1, 2).flatten(2), 96),
        (lambda x: x.permute(0, 3, 2, 1).flatten(2), 96),
        (lambda x: x.mean(2).transpose(1, 2), 24),
    ],
    ids=["channels first", "rows first", "averaged"],
)
def test_what_a_recurrent_layer_reads_is_cut(layer, columns, inputs):
    module = Recurrent(columns, layer, inputs).eval()
    plan = find_plan(module, SHAPE)
    assert (sizes(plan), plan.unpruned) == ({"features.0.0": 16, "features.2.0": 24}, ())
    kept = tuple(range(0, 24, 2))
    student = prune(copy.deepcopy(module), plan, KeptUnits({"features.2.0": kept}))
    assert student.recurrent.input_size == inputs // 2
    with torch.no_grad():
        module.features[2][1].weight[1::2] = module.features[2][1].bias[1::2] = 0  # the channels that went
    assert torch.allclose(student(images()), module(images()), atol=1e-6)


def test_what_comes_before_an_unreadable_part_is_cut_and_the_rest_is_said_to_stay():
    class Packed(Recurrent):
        def forward(self, x):
            x = self.columns(self.features(x))
            packed = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
            made, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
            return self.head(made.mean(1))

    plan = find_plan(Packed().eval(), SHAPE)
    assert sizes(plan) == {"features.0.0": 16}
    assert [(whole.module, "from here on" in whole.reason) for whole in plan.unpruned] == [("recurrent", True)]


def test_the_longest_readable_prefix():
    def read(name):
        if name > "e":
            raise ValueError(name)
        return name.upper()

    assert longest_prefix(list("abcdefgh"), read) == ("e", "E")
    assert longest_prefix(list("fgh"), read) is None


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
def test_a_stand_in_has_the_layers_shapes(make, batch_first, layers):
    layer = make(6, 5, num_layers=layers, bidirectional=True, batch_first=batch_first)

    def shapes(module):
        made, state = module(torch.randn(2, 7, 6))
        return [made.shape, *(part.shape for part in (state if isinstance(state, tuple) else (state,)))]

    assert shapes(RecurrentStandIn(layer)) == shapes(layer)
