import warnings

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.models import mbconv, resnet
from nas_distill.spaces import load_space
from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers import Layer, Tap, find_layers, layers_named
from nas_distill.utils.seeds import seeded_torch

EXPECTED = {
    "plain": [
        Layer("features.2", (4, 8, 8), "map"),
        Layer("features.6", (8, 4, 4), "map"),
        Layer("features", (8, 2, 2), "map"),
        Layer("classifier:input", (8,), "vector"),
    ],
    "dict": [
        Layer("body.0", (4, 8, 8), "map"),
        Layer("body", (6, 4, 4), "map"),
        Layer("flatten", (6,), "vector"),
    ],
    "shared": [
        Layer("block", (4, 8, 8), "map"),
        Layer("relu", (6, 4, 4), "map"),
        Layer("fc:input", (6,), "vector"),
    ],
    "encoder": [
        *(Layer(f"encoder.layers.{i}", (16, 8), "tokens") for i in range(3)),
        Layer("head:input", (8,), "vector"),
    ],
    "own_blocks": [
        *(Layer(f"blocks.{i}:seq_first", (17, 8), "tokens") for i in range(2)),
        Layer("head:input", (8,), "vector"),
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_of_networks_of_many_forms_are_found(networks, image, name):
    assert find_layers(networks(name), image) == EXPECTED[name]


def test_a_sequence_first_transformer_has_the_same_layers(networks, image):
    assert find_layers(networks("encoder", batch_first=False), image) == EXPECTED["encoder"]


@pytest.mark.parametrize("name", ["encoder", "own_blocks"])
def test_a_single_block_is_found(networks, image, name):
    assert [layer.kind for layer in find_layers(networks(name, layers=1), image)] == ["tokens", "vector"]


def check_taps(model, layers, x):
    """Tap the layers found, in both modes: they have the reported shapes."""
    tap = Tap(model, [layer.name for layer in layers])
    for mode in (True, False):
        model.train(mode)
        with tap:
            model(x)
        for layer in layers:
            assert tuple(tap.features[layer.name].shape) == (len(x), *layer.shape), layer
            assert tap.features[layer.name].requires_grad


@pytest.mark.parametrize("name", EXPECTED)
def test_found_layers_can_be_tapped(networks, image, name):
    model = networks(name)
    check_taps(model, find_layers(model, image), image)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 20)], ids=str)
@pytest.mark.parametrize("name", ["resnet", "mbconv"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_built_in_networks_have_one_map_per_resolution_and_the_vector(name, shape, layout):
    space, rng = load_space(name), np.random.default_rng(0)
    for architecture in (space.smallest(), space.largest(), space.sample(rng), space.sample(rng)):
        with seeded_torch(0):
            model = space.build(architecture, input_shape=shape, num_classes=5).to(memory_format=layout)
            x = torch.randn(3, *shape).to(memory_format=layout)
        layers = find_layers(model, x)
        *maps, vector = layers
        assert (vector.name, vector.kind) == ("head.linear:input", "vector")
        assert vector.shape == maps[-1].shape[:1]  # pooled from the last map
        sizes = [layer.shape[1:] for layer in maps]
        assert all(layer.kind == "map" for layer in maps)
        assert sizes == sorted(set(sizes), reverse=True)
        # Not layers inside a block, but blocks, their Sequential, or the layers before and after it.
        assert all(layer.name.split(".")[0] in ("stem", "blocks", "features") for layer in maps)
        assert all(layer.name.count(".") <= 1 for layer in maps)
        with torch.no_grad(), Tap(model, ["blocks"]) as tap:
            model(x)
        assert sizes[-1] == tuple(tap.features["blocks"].shape[2:])
        check_taps(model, layers, x)


def test_layers_inside_blocks_are_skipped():
    # The first convolution of a bottleneck is at the old resolution, squeeze-excitation at 1x1.
    stage = {"depth": 1, "block": "bottleneck"}
    model = resnet.build(stem=8, stages=[{**stage, "width": 16}, {**stage, "width": 32}], input_shape=(1, 8, 8))
    assert [layer.name for layer in find_layers(model, torch.zeros(2, 1, 8, 8))] == [
        "blocks.0",
        "blocks",
        "head.linear:input",
    ]
    stage = {"depth": 2, "se": True}
    model = mbconv.build(stem=8, stages=[{**stage, "width": 16}, {**stage, "width": 32}], input_shape=(1, 8, 8))
    assert [layer.name for layer in find_layers(model, torch.zeros(2, 1, 8, 8))] == [
        "blocks.1",
        "blocks",
        "head.linear:input",
    ]


def test_a_resolution_only_inside_a_block_is_found_there():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)

        def forward(self, x):
            return self.pool(self.conv(x))

    model = nn.Sequential(Stem(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16, 5))
    found = find_layers(model, torch.zeros(2, 4, 8, 8))
    assert [(layer.name, layer.shape) for layer in found] == [
        ("0.conv", (4, 8, 8)),
        ("1", (4, 4, 4)),
        ("2", (64,)),
    ]


def test_logits_and_layers_that_do_not_depend_on_weights_are_left_out(image):
    assert find_layers(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)), image) == []
    assert find_layers(nn.Linear(8, 5), image[:, 0, 0]) == []
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 7), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(7, 5), nn.Softmax(1)
    )
    assert find_layers(mlp, image) == [Layer("2", (7,), "vector")]


def test_a_convolution_as_the_classifier_is_left_out(image):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_layers(model, image) == [Layer("1", (4, 3, 3), "map")]


def test_a_pooled_map_is_not_a_resolution_but_a_map_of_one_pixel_is(image):
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    assert [layer.shape for layer in find_layers(pooled, image)] == [(4, 3, 3), (4,)]
    tiny = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5))
    assert [layer.shape for layer in find_layers(tiny, image)] == [(4, 3, 3), (4, 1, 1), (4,)]


def test_blocks_in_nested_sequentials_are_found(image):
    def block():
        return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 2, 2)

        def forward(self, x):
            return self.conv(x).flatten(2).transpose(1, 2)

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    inner = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2)
    for blocks, names in ((nn.Sequential(block(), block()), ["1.0", "1.1"]), (inner, ["1.layers.0", "1.layers.1"])):
        model = nn.Sequential(Patches(), blocks, Mean(), nn.Linear(8, 5))
        found = find_layers(model, image)
        assert [layer.name for layer in found] == [*names, "2"]
        model[1] = nn.Sequential(nn.Sequential(nn.Identity(), blocks))
        inside = [name.replace("1.", "1.0.1.", 1) for name in names]
        assert [layer.name for layer in find_layers(model, image)] == [*inside, "2"]


def test_only_outer_blocks_of_nested_blocks_are_found(image):
    class Patches(nn.Module):
        def forward(self, x):
            return x[:, 0, :5]

    def encoder(layers):
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), layers)

    def wrapped():
        return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2)))

    for stages, names in (
        (nn.Sequential(encoder(1), encoder(2)), ["0.layers.0", "1.layers.0", "1.layers.1"]),
        (nn.Sequential(wrapped(), wrapped()), ["0", "1"]),  # the outer ones, and not both
    ):
        model = nn.Sequential(Patches(), stages, nn.Flatten(), nn.Linear(40, 5))
        assert [layer.name for layer in find_layers(model, image)] == [*(f"1.{name}" for name in names), "2"]


def test_1x1_maps_of_squeeze_excitation_inside_a_block_are_skipped(image):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return x * self.conv(self.pool(x)).sigmoid()

    class Down(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.gate, self.conv = nn.Conv2d(4, 4, 1), Gate(), nn.Conv2d(4, 4, 3, 2, 1)

        def forward(self, x):
            return self.conv(self.gate(self.wide(x)))

    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Down(), nn.Flatten(), nn.Linear(64, 5))
    assert [layer.name for layer in find_layers(model, image)] == ["0", "1", "2"]


def test_a_network_with_own_weights_and_a_final_softmax(image):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)) * self.scale).log_softmax(1)

    assert [layer.name for layer in find_layers(Network(), image)] == ["conv", "fc:input"]


def test_the_generator_is_restored_after_a_network_that_draws_in_eval_mode(image):
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    model = nn.Sequential(Noise(), nn.Flatten(), nn.Linear(64, 5))
    random = torch.get_rng_state()
    find_layers(model, image)
    assert torch.equal(torch.get_rng_state(), random)


def test_outputs_of_1d_convolutions_are_not_tokens():
    def block():
        return nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU())

    model = nn.Sequential(block(), block(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5))
    assert find_layers(model, torch.zeros(2, 4, 16)) == [Layer("3", (4,), "vector")]


def test_the_state_of_the_network_is_restored(networks, image):
    model = networks("plain").train()
    model.features[1].eval()
    modes = [part.training for part in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    find_layers(model, image)
    layers_named(model, image, ["features"])
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    with pytest.raises(TrainingError, match=r"network \(Plain\) fails on a batch of shape \(3, 8, 8, 1\)"):
        find_layers(model, image.permute(0, 2, 3, 1))
    assert [part.training for part in model.modules()] == modes
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_named_layers_have_kind_and_shape(networks, image):
    model = networks("plain")
    assert layers_named(model, image, ["classifier.1:input", "features.3"]) == [
        Layer("classifier.1:input", (8,), "vector"),
        Layer("features.3", (4, 4, 4), "map"),
    ]
    with pytest.raises(TrainingError, match="no layer 'feature'; did you mean 'features'"):
        layers_named(model, image, ["feature"])
    encoder = networks("encoder")
    assert layers_named(encoder, image, ["encoder"]) == [Layer("encoder", (16, 8), "tokens")]
    for name in ("encoder.layers.0.self_attn:attention", "encoder.layers.0.self_attn:qkv"):
        with pytest.raises(TrainingError, match="name a layer that returns a map"):
            layers_named(encoder, image, [name])


def test_finding_layers_raises_no_warning(networks, image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_layers(networks("encoder"), image)
