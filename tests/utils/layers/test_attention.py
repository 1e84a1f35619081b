import pytest
import torch
from torch import nn

from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers import Tap, attention_names, qkv, scores


class Wrapped(nn.Module):
    """A module around the attention, so that it can be tapped by name."""

    def __init__(self, **arguments):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **arguments)

    def forward(self, *args, **kwargs):
        return self.attention(*args, average_attn_weights=False, **kwargs)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masks", ["none", "bool", "float", "heads", "padding", "both"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_softmax_of_the_scores_equals_torchs_attention(masks, batch_first, bias):
    torch.manual_seed(0)
    model = Wrapped(batch_first=batch_first, bias=bias)
    if bias:
        nn.init.normal_(model.attention.in_proj_bias)
    x = drawn(3, 6, 8)
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    kwargs = {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": drawn(6, 6, seed=1)},
        "heads": {"attn_mask": drawn(6, 6, 6, seed=1) > 1.5},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
    }[masks]
    x = x if batch_first else x.transpose(0, 1)
    with Tap(model, ["attention:attention", "attention:qkv"]) as tap:
        output, weights = model(x, x, x, **kwargs)
    found = tap.features["attention:attention"]
    assert found.shape == (3, 2, 6, 6)
    torch.testing.assert_close(found.softmax(-1), weights)
    stacked = tap.features["attention:qkv"]
    assert stacked.shape == (3, 3, 2, 6, 4)
    values = (weights @ stacked[2]).transpose(1, 2).flatten(2)
    mixed = model.attention.out_proj(values)
    torch.testing.assert_close(mixed if batch_first else mixed.transpose(0, 1), output)


def test_cross_attention_with_other_width_and_number_of_keys():
    torch.manual_seed(0)
    model = Wrapped(batch_first=True, kdim=5, vdim=7)
    query, key, value = drawn(3, 4, 8), drawn(3, 6, 5), drawn(3, 6, 7)
    with Tap(model, ["attention:attention"]) as tap:
        _, weights = model(query, key=key, value=value)
    torch.testing.assert_close(tap.features["attention:attention"].softmax(-1), weights)
    assert [tuple(part.shape) for part in qkv(model.attention, query, key, value)] == [(3, 2, 4, 4)] + [
        (3, 2, 6, 4)
    ] * 2
    with Tap(model, ["attention:qkv"]), pytest.raises(TrainingError, match="4 queries over 6 keys"):
        model(query, key, value)


def test_gradients_reach_the_projection_weights():
    model = Wrapped(batch_first=True)
    x = drawn(2, 4, 8)
    with Tap(model, ["attention:qkv"]) as tap:
        model(x, x, x)
    tap.features["attention:qkv"].square().sum().backward()
    assert float(model.attention.in_proj_weight.grad.abs().min()) > 0


def test_one_sample_without_a_batch_axis_is_a_batch_of_one():
    model = Wrapped(batch_first=False)
    x = drawn(4, 8)
    q, k, _ = qkv(model.attention, x, x, x)
    assert q.shape == (1, 2, 4, 4)
    torch.testing.assert_close(scores(q, k).softmax(-1)[0], model(x, x, x)[1])


def test_scores_match_values_computed_by_hand():
    q, k = torch.tensor([[[[1.0, 2.0, 0.0, 0.0]]]]), torch.tensor([[[[3.0, 4.0, 0.0, 0.0], [1.0, 0.0, 5.0, 0.0]]]])
    assert scores(q, k).tolist() == [[[[5.5, 0.5]]]]
    assert scores(q, k, torch.tensor([0.0, 1.0])).tolist() == [[[[5.5, 1.5]]]]
    assert scores(q, k, torch.tensor([True, False])).tolist() == [[[[float("-inf"), 0.5]]]]


@pytest.mark.parametrize("extra", ["add_bias_kv", "add_zero_attn"])
def test_an_attention_that_adds_keys_is_refused(extra):
    x = drawn(2, 4, 8)
    with pytest.raises(TrainingError, match="adds its own keys"):
        qkv(nn.MultiheadAttention(8, 2, **{extra: True}), x, x, x)


def test_attentions_are_found_by_name(networks):
    assert attention_names(networks("encoder")) == [f"encoder.layers.{i}.self_attn" for i in range(3)]
    assert attention_names(networks("own_blocks")) == ["blocks.0.attention", "blocks.1.attention"]
    assert attention_names(networks("plain")) == []
