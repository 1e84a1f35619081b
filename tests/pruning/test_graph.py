import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.graph import Channel, ChannelUnions, longest_prefix, read_graph
from nas_distill.pruning.plan import KeptUnits
from nas_distill.pruning.stand_ins import RecurrentStandIn
from nas_distill.pruning.surgery import prune
from tests.pruning.networks import CLASSES, SHAPE, Fire, Gated, Pooled, Recurrent, Residual, conv, images, make

ATOMS = st.builds(Channel, st.sampled_from("ab"), st.sampled_from(["in", "out"]), st.integers(0, 4))


def components(pairs):
    """The same components by brute force: sets are merged until nothing changes."""
    sets = [set(pair) for pair in pairs]
    merged = True
    while merged:
        merged = False
        for one in sets:
            for other in sets:
                if one is not other and one & other:
                    one |= other
                    sets.remove(other)
                    merged = True
                    break
            if merged:
                break
    return sorted(sorted(one) for one in sets)


@given(st.lists(st.tuples(ATOMS, ATOMS)), st.lists(ATOMS, max_size=2))
def test_units_are_joined_channels_that_are_not_closed(pairs, closed):
    unions = ChannelUnions()
    for pair in pairs:
        unions.join(*pair)
    for channel in closed:
        unions.close(channel)
    expected = [one for one in components(pairs) if not set(one) & set(closed)]
    assert sorted(unions.units()) == expected


def test_several_channels_are_joined_in_one_call():
    unions = ChannelUnions()
    three = [Channel("a", "out", place) for place in range(3)]
    unions.join(*three)
    assert list(unions.units()) == [three]


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
def test_inputs_of_recurrent_layers_are_cut(layer, columns, inputs):
    module = Recurrent(columns, layer, inputs).eval()
    plan = find_plan(module, SHAPE)
    assert (sizes(plan), plan.unpruned) == ({"features.0.0": 16, "features.2.0": 24}, ())
    kept = tuple(range(0, 24, 2))
    student = prune(copy.deepcopy(module), plan, KeptUnits({"features.2.0": kept}))
    assert student.recurrent.input_size == inputs // 2
    with torch.no_grad():
        module.features[2][1].weight[1::2] = module.features[2][1].bias[1::2] = 0  # the removed channels
    assert torch.allclose(student(images()), module(images()), atol=1e-6)


def test_layers_before_an_unreadable_part_are_cut_and_the_rest_is_reported():
    class Packed(Recurrent):
        def forward(self, x):
            x = self.columns(self.features(x))
            packed = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
            made, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
            return self.head(made.mean(1))

    plan = find_plan(Packed().eval(), SHAPE)
    assert sizes(plan) == {"features.0.0": 16}
    assert [(each.module, "from here on" in each.reason) for each in plan.unpruned] == [("recurrent", True)]


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


def units(module, shape=SHAPE):
    """Return for each channel that may be cut, written name/side/index, the channels of its unit."""
    return {
        f"{channel.module}/{channel.side}/{channel.position}": {
            f"{one.module}/{one.side}/{one.position}" for one in unit
        }
        for unit in read_graph(module, shape)[0].units()
        for channel in unit
    }


def test_a_channel_is_joined_with_what_normalises_and_reads_it():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())
    found = units(module)
    assert found["0/out/2"] == {"0/out/2", "1/out/2", "3/in/2"}
    assert len({frozenset(unit) for unit in found.values()} & {frozenset(found[f"0/out/{n}"]) for n in range(4)}) == 4


def test_logits_are_closed_with_everything_added_to_them():
    found = units(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 5), Residual(nn.Linear(5, 5))))
    assert not any(name.startswith(("2/out", "3.body/")) for name in found)
    assert found["1/out/0"] == {"1/out/0", "2/in/0"}


class ByVectors(nn.Module):
    """Logits are products with one vector per class, as in a cosine classifier."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(conv(3, 8), conv(8, 8))
        self.vectors = nn.Parameter(torch.randn(CLASSES, 8))

    def forward(self, x):
        return functional.linear(functional.normalize(self.layers(x).mean((2, 3))), functional.normalize(self.vectors))


def test_channels_that_an_operation_sums_up_to_logits_are_not_closed():
    found = units(ByVectors())
    assert found["layers.1.0/out/3"] >= {"layers.1.1/out/3", "vectors/out/3"}
    plan = find_plan(ByVectors(), SHAPE)
    assert [group.name for group in plan.groups] == ["layers.0.0", "layers.1.0"]
    assert plan.unpruned == ()


def test_input_channels_of_the_data_are_in_no_unit():
    found = units(make("residual"))
    assert not any("stem.0/in" in "".join(unit) for name, unit in found.items() if not name.startswith("stem.0/in"))
    assert "stem.0/out/0" in found


def test_addends_are_cut_together():
    found = units(Pooled(conv(3, 8), [Residual(conv(8, 8))], 8))
    assert {"stem.0/out/1", "blocks.0.body.0/out/1", "blocks.0.body.0/in/1", "head/in/1"} <= found["stem.0/out/1"]
    assert not any(name.endswith("/2") for name in found["stem.0/out/1"])


def test_pixels_behind_a_flatten_are_cut_with_their_channel():
    found = units(nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(16, 5)))
    assert found["0/out/1"] == {"0/out/1", *(f"2/in/{place}" for place in range(4, 8))}


def test_concatenated_branches_are_separate_units():
    found = units(Pooled(conv(3, 8), [Fire(8, 4, 6)], 12))
    assert found["blocks.0.large.0/out/2"] >= {"head/in/8"}
    assert found["blocks.0.small.0/out/2"] >= {"head/in/2"}
    assert "blocks.0.large.0/out/2" not in found["blocks.0.small.0/out/2"]


def test_a_gate_is_cut_with_the_channel_that_it_multiplies():
    """If two channels of one layer lead to one, the graph's own groups keep only one of them."""
    found = units(Pooled(conv(3, 8), [Gated(8, 6)], 8))
    assert found["blocks.0.first/out/1"] == {"blocks.0.first/out/1", "blocks.0.first/out/7", "blocks.0.last/in/1"}


def test_grouped_convolutions_and_norms_are_cut_by_groups():
    body = nn.Sequential(nn.Conv2d(8, 16, 1, groups=4), nn.GroupNorm(2, 16), nn.Conv2d(16, 4, 1))
    found = units(Pooled(conv(3, 8), [body], 4))
    together = found["blocks.0.0/out/0"]
    assert {f"blocks.0.0/out/{index}" for index in range(8)} <= together  # the norm's group is two of these
    assert {f"stem.0/out/{index}" for index in range(4)} <= together
    assert "blocks.0.0/out/8" not in together


def test_a_depthwise_convolution_is_cut_with_the_channels_before_it():
    found = units(Pooled(conv(3, 4), [conv(4, 4, groups=4)], 4))
    assert {"stem.0/out/3", "blocks.0.0/out/3", "head/in/3"} <= found["stem.0/out/3"]
    assert not any(name.endswith("/2") for name in found["stem.0/out/3"])
    twice = units(Pooled(conv(3, 4), [conv(4, 8, groups=4)], 8))
    assert {"stem.0/out/1", "blocks.0.0/out/2", "blocks.0.0/out/3", "head/in/2", "head/in/3"} <= twice["stem.0/out/1"]


def test_custom_parameters_are_cut_with_the_width():
    found = units(make("layer_norm"))
    assert {"blocks.0.scale/out/5", "blocks.0.down/out/5", "blocks.0.norm/out/5"} & found["stem/out/5"] >= {
        "blocks.0.scale/out/5",
        "blocks.0.down/out/5",
    }


def test_attention_inputs_and_outputs_are_one_unit():
    found = units(make("transformer"))
    width = found["encoder.layers.0.self_attn/in/3"]
    assert {"encoder.layers.0.self_attn.out_proj/out/3", "encoder.layers.0.linear1/in/3", "norm/out/3"} <= width


def test_the_graph_is_read_in_eval_mode_without_output(capsys):
    module = Pooled(conv(3, 8), [nn.Sequential(conv(8, 8), nn.Dropout(0.5))], 8).train()
    read_graph(module, SHAPE)
    assert not any(part.training for part in module.modules())
    assert capsys.readouterr() == ("", "")


def test_units_do_not_depend_on_the_global_generator():
    found = []
    for seed in range(2):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            found.append(sorted(map(sorted, read_graph(make("residual"), SHAPE)[0].units())))
    assert found[0] == found[1]


def test_errors_of_torch_pruning_are_not_caught():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such sample")

    with pytest.raises(RuntimeError, match="no such sample"):
        read_graph(Fails(), SHAPE)
