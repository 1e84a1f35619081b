from __future__ import annotations

import pytest
import torch

from nas_distill.blockwise.channels import by_channel, fill, first_tensor, put_first, restrict
from nas_distill.utils.errors import SpaceError


@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 3, 3), 1), ((2, 4, 5), -1)])
def test_removed_channels_are_filled_in_from_others(shape, axis):
    x, others, kept = torch.randn(shape), torch.randn(shape), torch.tensor([0, 3])
    narrow = restrict(x, kept, axis)
    assert narrow.shape[axis] == 2
    before = others.clone()
    whole = fill(narrow, kept, axis, others)
    for channel in range(5):
        wanted = x if channel in (0, 3) else others
        assert torch.equal(whole.select(axis, channel), wanted.select(axis, channel))
    assert torch.equal(others, before)
    assert fill(x, None, axis, others) is x


def test_restriction_returns_a_copy_in_the_same_layout():
    x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    for kept in (None, torch.tensor([1, 2])):
        narrow = restrict(x, kept, 1)
        assert narrow.is_contiguous(memory_format=torch.channels_last)
        before = x.clone()
        narrow.zero_()
        assert torch.equal(x, before)


def test_means_by_channel():
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(by_channel(x, -1), x.double().mean((0, 1)))
    torch.testing.assert_close(by_channel(x, 1), x.double().mean((0, 2)))


def test_a_block_may_return_a_tuple():
    x, y, mask = torch.zeros(1), torch.ones(1), object()
    assert first_tensor((x, mask), "b") is x
    assert put_first((x, mask), y) == (y, mask)
    assert put_first([x], y) == [y]
    assert put_first(x, y) is y
    with pytest.raises(SpaceError, match="block 'b' returns a dict"):
        first_tensor({"x": x}, "b")
