import copy
import io
import pickle

import pytest
import torch
from torch import nn

from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers import Tap


def hooks(module):
    """Every hook on any part of a network."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [entry for part in module.modules() for kind in kinds for entry in getattr(part, kind)]


def test_taps_record_outputs_and_inputs_of_layers(plain, image):
    plain.eval()
    with torch.no_grad(), Tap(plain, ["features.2", "features", "classifier.1:input", "classifier"]) as tap:
        logits = plain(image)
    features = tap.features
    assert list(features) == ["features.2", "features", "classifier.1:input", "classifier"]
    assert torch.equal(features["features.2"], plain.features[:3](image))
    assert torch.equal(features["features"], plain.features(image))
    assert torch.equal(features["classifier.1:input"], plain.features(image).mean((2, 3)))
    assert torch.equal(features["classifier"], logits)


def test_a_tap_does_not_change_the_output(plain, image):
    plain.eval()
    expected = plain(image)
    with Tap(plain, ["features.0", "features.1", "classifier:input"]):
        assert torch.equal(plain(image), expected)
    assert torch.equal(plain(image), expected)


def test_tensors_modified_in_place_later_are_recorded_unmodified(plain, image):
    plain.train()
    with Tap(plain, ["features.1", "classifier:input", "classifier.0"]) as tap:
        plain(image)
    before_relu, before_dropout = tap.features["features.1"], tap.features["classifier:input"]
    assert (before_relu < 0).any()  # the ReLU after it works in place
    assert not torch.equal(before_dropout, tap.features["classifier.0"])  # so does the dropout


def test_gradients_pass_through_a_tap(plain, image):
    plain.eval()
    with Tap(plain, ["features.4", "classifier:input"]) as tap:
        plain(image)
    (tap.features["features.4"].sum() + tap.features["classifier:input"].sum()).backward()
    assert all(weight.grad is not None for weight in plain.features.parameters())
    assert plain.classifier[1].weight.grad is None


def test_all_hooks_are_removed_even_after_an_error(plain, image):
    before = pickle.dumps(plain)
    tap = Tap(plain, ["features.2", "classifier:input"])
    with tap:
        plain.eval()(image)
        assert hooks(plain)
    plain.train()
    assert not hooks(plain)
    assert pickle.dumps(plain) == before
    with pytest.raises(RuntimeError), tap:
        plain(image[:, :, :, :0])
    assert not hooks(plain)
    assert not hooks(copy.deepcopy(plain))
    torch.save(plain, io.BytesIO())


def test_hooks_of_others_remain(plain, image):
    seen = []
    plain.features.register_forward_hook(lambda *_: seen.append("mine"))
    with Tap(plain, ["features"]):
        plain(image)
    plain(image)
    assert seen == ["mine", "mine"]


def test_a_copy_of_the_network_is_not_tapped(plain, image):
    copied = copy.deepcopy(plain)
    with Tap(plain, ["features"]) as tap:
        copied(image)
    with pytest.raises(TrainingError, match="'features' was not called"):
        _ = tap.features


def test_a_tap_can_be_reopened_but_not_nested(plain, image):
    tap = Tap(plain.eval(), ["features"])
    with tap:
        first = plain(image) is not None and tap.features["features"]
        with pytest.raises(TrainingError, match="already open"), tap:
            pass
        plain(image)  # it is still open
        assert torch.equal(tap.features["features"], first)
    with tap, pytest.raises(TrainingError, match="not called"):
        _ = tap.features  # tensors of the last use are not returned
    assert not hooks(plain)


def test_two_taps_on_one_network_are_independent(plain, image):
    outer, inner = Tap(plain.eval(), ["features", "classifier"]), Tap(plain, ["features"])
    with outer:
        with inner:
            plain(image)
        first = outer.features["features"]
        assert torch.equal(first, inner.features["features"])
        plain(image + 1)
        assert not torch.equal(outer.features["features"], first)
        assert torch.equal(inner.features["features"], first)
    assert not hooks(plain)


def test_a_layer_that_was_not_called_is_named(image):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 5), nn.Linear(8, 5)
            self.turn = 0

        def forward(self, x):
            self.turn += 1
            return self.one(x) if self.turn == 1 else self.two(x)

    model = Sometimes()
    with Tap(model, ["one"]) as tap:
        model(image)
        assert "one" in tap.features
        model(image)
        with pytest.raises(TrainingError, match="Layer 'one' was not called in the network's last forward pass"):
            _ = tap.features


def test_the_last_call_is_recorded_under_each_name_of_a_layer(networks, image):
    model = networks("shared")
    with Tap(model, ["block", "again", "relu"]) as tap:
        model(image)
    twice = model.block(model.relu(model.block(model.relu(model.stem(image)))))
    assert torch.equal(tap.features["block"], twice)
    assert torch.equal(tap.features["again"], twice)
    assert tap.features["relu"].shape == (3, 6, 4, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("feature", "network \\(Plain\\) has no layer 'feature'; did you mean 'features'\\?"),
        ("features.22", "no layer 'features.22'; did you mean 'features.2'\\?"),
        ("feature:input", "no layer 'feature'; did you mean 'features'\\?"),
        ("features:outputs", "':outputs' is not one of :input, "),
        ("features:qkv", "layer 'features' is a Sequential, and ':qkv' is for torch.nn.MultiheadAttention"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(plain, name, message):
    with pytest.raises(TrainingError, match=message):
        Tap(plain, [name])
    assert not hooks(plain)


def test_a_layer_without_a_tensor_output_is_named():
    class Nothing(nn.Module):
        def forward(self, x):
            return None

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing = Nothing()

        def forward(self, x):
            self.nothing(x)
            return x

    model = Network()
    with (
        Tap(model, ["nothing"]),
        pytest.raises(TrainingError, match="layer 'nothing' contains no tensor"),
    ):
        model(torch.zeros(2, 3))
    assert not hooks(model)


def test_features_under_autocast_have_the_networks_type(plain, networks, image):
    with torch.autocast("cpu", torch.bfloat16), Tap(plain, ["features.0", "classifier:input"]) as tap:
        plain(image)
    assert tap.features["features.0"].dtype == torch.bfloat16
    model = networks("encoder")
    with torch.autocast("cpu", torch.bfloat16), Tap(model, ["encoder.layers.0.self_attn:qkv"]) as tap:
        model(image)
    assert tap.features["encoder.layers.0.self_attn:qkv"].dtype == torch.bfloat16


def test_channels_last_layout_is_preserved(plain, image):
    plain.to(memory_format=torch.channels_last)
    x = image.expand(-1, 1, -1, -1).contiguous(memory_format=torch.channels_last)
    with Tap(plain, ["features.4"]) as tap:
        plain(x)
    assert tap.features["features.4"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_transformer_layers_are_recorded_in_both_modes_and_orders(networks, image, batch_first, norm_first):
    model = networks("encoder", batch_first=batch_first, norm_first=norm_first)
    names = ["encoder.layers.0", "encoder.layers.2", "encoder.layers.1.linear1:input", "encoder.layers.0.self_attn:qkv"]
    tap = Tap(model, names)
    with tap:
        trained = model.train()(image)
    in_training = tap.features
    assert in_training["encoder.layers.0"].shape == (3, 16, 8)
    with torch.no_grad(), tap:
        logits = model.eval()(image)
    for name in names:
        torch.testing.assert_close(tap.features[name], in_training[name].detach())
    # The input of the head is the mean of the last block's tokens.
    torch.testing.assert_close(model.head(tap.features["encoder.layers.2"].mean(1)), logits)
    torch.testing.assert_close(trained, logits)


def test_features_with_a_padding_mask_in_eval_mode_are_not_nested(networks, image):
    # Without the tap torch would run the layers on nested tensors here.
    model = networks("encoder").eval()
    padding = torch.zeros(3, 16, dtype=torch.bool)
    padding[1, 10:] = True
    names = ["encoder.layers.0", "encoder.layers.1.self_attn:attention"]
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), Tap(model, names) as tap:
        model(image, padding)
    assert torch.backends.mha.get_fastpath_enabled()
    assert not tap.features["encoder.layers.0"].is_nested
    assert tap.features["encoder.layers.0"].shape == (3, 16, 8)
    attention = tap.features["encoder.layers.1.self_attn:attention"].softmax(-1)
    assert (attention[1, :, :, 10:] == 0).all()
    assert (attention[0] > 0).all()


def test_the_fast_path_is_restored_in_any_order_of_closing(networks, image):
    model = networks("encoder")
    one, two = Tap(model, ["encoder"]), Tap(model, ["head"])
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    two.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()
