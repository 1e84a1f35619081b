import pickle

import pytest
import torch
from torch import nn

from nas_distill.pruning.attention import NarrowedAttention
from nas_distill.utils.errors import SpaceError
from nas_distill.utils.layers import Tap


def pair(batch_first=True, **options):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = nn.MultiheadAttention(16, 4, batch_first=batch_first, **options).eval()
        for weight in module.parameters():
            nn.init.normal_(weight, std=0.3)
    return module, NarrowedAttention.of(module)


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


MASKS = {
    "nothing": {},
    "mask": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
    "causal": {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5), "is_causal": True},
    "of each head": {"attn_mask": tokens(12, 5, 5)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])},
    "both": {
        "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(2),
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]]),
    },
}


@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
def test_narrowed_attention_equals_that_of_torch(mask, batch_first, bias, weights):
    module, narrowed = pair(batch_first, bias=bias)
    x = tokens(3, 5, 16) if batch_first else tokens(5, 3, 16)
    wanted, attention = module(x, x, x, **MASKS[mask], **weights)
    found, own = narrowed(x, x, x, **MASKS[mask], **weights)
    torch.testing.assert_close(found, wanted)
    assert (attention is None) == (own is None)
    if own is not None:
        torch.testing.assert_close(own, attention)


def test_one_sample_without_a_batch():
    module, narrowed = pair(batch_first=False)
    x = tokens(5, 16)
    for one, other in zip(module(x, x, x), narrowed(x, x, x)):
        torch.testing.assert_close(one, other)


def test_numbers_of_queries_and_keys_may_differ():
    module, narrowed = pair()
    torch.testing.assert_close(
        module(tokens(2, 3, 16), tokens(2, 5, 16), tokens(2, 5, 16))[0],
        narrowed(tokens(2, 3, 16), tokens(2, 5, 16), tokens(2, 5, 16))[0],
    )


def test_weights_are_shared_under_the_same_names():
    module, narrowed = pair()
    own = dict(narrowed.named_parameters())
    assert {name: id(weight) for name, weight in module.named_parameters()} == {n: id(w) for n, w in own.items()}


def test_dropout_is_applied_in_training_only():
    _, narrowed = pair(dropout=0.5)
    x = tokens(2, 5, 16)
    assert torch.equal(narrowed(x, x, x)[0], narrowed(x, x, x)[0])
    narrowed.train()
    for need in (True, False):
        assert not torch.equal(narrowed(x, x, x, need_weights=need)[0], narrowed(x, x, x, need_weights=need)[0])


def test_encoder_layers_and_taps_accept_narrowed_attention():
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    x = tokens(3, 5, 16)
    with torch.no_grad():
        wanted = layer(x)
        layer.self_attn = NarrowedAttention.of(layer.self_attn)
        torch.testing.assert_close(layer(x), wanted)
    tap = Tap(layer, ["self_attn:qkv"])
    with tap:
        layer(x)
    assert tap.features["self_attn:qkv"].shape == (3, 3, 4, 5, 4)


def test_new_attention_has_any_widths_and_pickles():
    narrowed = NarrowedAttention(12, 3, 8, batch_first=True, bias=False)
    x = tokens(2, 5, 12)
    assert narrowed(x, x, x)[0].shape == x.shape
    assert torch.equal(pickle.loads(pickle.dumps(narrowed))(x, x, x)[0], narrowed(x, x, x)[0])


@pytest.mark.parametrize("options", [{"kdim": 8}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_with_extra_keys_is_refused(options):
    with pytest.raises(SpaceError, match="cannot be cut"):
        NarrowedAttention.of(nn.MultiheadAttention(16, 4, **options))
