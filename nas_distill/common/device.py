"""Where and in which memory layout a network trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nas_distill.common.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # torch has one for each kind of absence
        raise ConfigError(f"device '{name}' is not available here; use auto or cpu.") from error
    return device


def memory_format(module: nn.Module) -> torch.memory_format:
    """Return channels_last where it is safe and of use, else the contiguous format.

    It is up to twice as fast for convolutional networks on CPUs. It is not safe with a 1x1 convolution of stride above
    1 and fewer than 8 input channels: on AVX2 CPUs its backward corrupts the heap (seen with torch 2.13).
    """
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    unsafe = any(
        layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < 8 for layer in convolutions
    )
    volumes = any(weight.dim() == 5 for weight in module.parameters())  # torch refuses the layout for those
    return torch.channels_last if convolutions and not unsafe and not volumes else torch.contiguous_format


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's weights are; the CPU for one without any."""
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run a block with ``count`` threads for torch's operations on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def place(module: nn.Module, device: torch.device | str, layout: torch.memory_format) -> nn.Module:
    """Move a module, in place, to a device and a memory layout."""
    result: nn.Module = module.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack the layout
    return result
