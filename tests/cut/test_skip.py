import torch

from nas_distill.cut.skip import Skip


def test_it_passes_on_its_first_argument():
    x = torch.randn(2, 3)
    assert Skip()(x, "mask", is_causal=True) is x
    assert Skip(wrapped=True)(x) == (x,)
    assert not list(Skip().parameters())
