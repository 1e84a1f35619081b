"""A real native crash; it needs nothing but torch, so that a test can try whether this machine has it."""

from __future__ import annotations

import torch


def convolve() -> None:
    """Do what corrupts the heap of torch 2.13 on CPUs with AVX2: few channels, stride 2, channels last, backward."""
    torch.set_num_threads(1)
    for _ in range(20):
        convolution = torch.nn.Conv2d(4, 16, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
        x = torch.randn(128, 4, 28, 28).to(memory_format=torch.channels_last).requires_grad_()
        convolution(x).sum().backward()
