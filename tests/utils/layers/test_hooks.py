import pytest
import torch
from torch import nn

from nas_distill.utils.layers.hooks import Hooks, unfused


def test_hooks_change_calls_and_are_removed_after_an_error():
    layer, seen, x = nn.Identity(), [], torch.ones(2)
    hooks = Hooks()

    def look():
        with hooks:
            assert hooks.open
            hooks.before(layer, lambda module, args, kwargs: ((args[0] + 1,), kwargs))
            hooks.after(layer, lambda module, args, kwargs, result: seen.append(result))
            assert layer(x).tolist() == [2, 2]
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            look()
    assert layer(x).tolist() == [1, 1]
    assert [result.tolist() for result in seen] == [[2, 2], [2, 2]]
    assert not hooks.open
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_fused_layers_are_disabled_until_the_last_block_ends():
    network = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    enabled = torch.backends.mha.get_fastpath_enabled
    assert enabled()
    with Hooks(network):
        with unfused(network):
            assert not enabled()
        assert not enabled()
    assert enabled()
    with Hooks(network.linear1), unfused(network.linear1):
        assert enabled()
