import pytest
import torch
from torch import nn

from nas_distill.distill.projectors import BatchNorm


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 2, 1), (4, 3, 5, 5)])
def test_it_is_that_of_torch_wherever_there_is_a_variance(shape):
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for seed in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key])


def test_one_value_a_channel_goes_by_the_running_statistics_and_leaves_them():
    norm = BatchNorm(2)
    norm(torch.randn(8, 2, 3, 3) * 2 + 1)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    expected = (x.flatten() - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(norm(x).flatten(), expected)
    assert norm.training
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
