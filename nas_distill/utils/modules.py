"""Devices and memory layouts of modules, state restored after use, and muted output of libraries."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas_distill.utils.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA if available, else the CPU.

    Raises:
        ConfigError: the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # torch raises different errors for different missing devices
        raise ConfigError(f"device '{name}' is not available here; use auto or cpu.") from error
    return device


def memory_format(module: nn.Module) -> torch.memory_format:
    """Return channels_last where it is safe and useful, else the contiguous format.

    channels_last is up to twice as fast for convolutional networks on CPUs. It is not safe with a 1x1 convolution of
    stride above 1 and fewer than 8 input channels: on AVX2 CPUs its backward corrupts the heap (seen with torch 2.13).
    """
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    unsafe = any(
        layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < 8 for layer in convolutions
    )
    volumes = any(weight.dim() == 5 for weight in module.parameters())  # torch refuses the layout for those
    return torch.channels_last if convolutions and not unsafe and not volumes else torch.contiguous_format


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter, or else first buffer; the CPU for a module without either."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


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


BufferSlot = tuple[dict[str, Tensor | None], str]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a block with ``module`` in eval mode, then restore the mode of each submodule, so frozen ones stay frozen."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False  # not .eval(): a module may override train() to do more than set the flag
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def buffer_slots(module: nn.Module) -> list[BufferSlot]:
    """Return the (dictionary, name) of each buffer of a module; a shared buffer once."""
    found: dict[int, BufferSlot] = {}
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                found.setdefault(id(buffer), (part._buffers, name))
    return list(found.values())


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Run a block, then restore the buffers of ``module``, which a forward pass may have changed.

    Copies replace the buffers during the block, so tensors that a backward pass saved are not modified.
    """
    slots = [(part._buffers, name) for part in module.modules() for name in part._buffers]
    originals = [buffers[name] for buffers, name in slots]
    copies = {id(value): value.clone() for value in originals if value is not None}
    for (buffers, name), value in zip(slots, originals):
        if value is not None:
            buffers[name] = copies[id(value)]
    try:
        yield
    finally:
        for (buffers, name), value in zip(slots, originals):
            buffers[name] = value


_VERBOSE = ("torch", "onnxscript", "onnx_ir", "onnxruntime", "fvcore")


@contextlib.contextmanager
def quiet(*, prints: bool = True) -> Iterator[None]:
    """Suppress warnings and log lines of torch, ONNX and fvcore within a block; errors are still raised.

    Args:
        prints: suppress Python's standard output and standard error, too.
    """
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _VERBOSE]
    levels = [(logger, logger.level) for logger in map(logging.getLogger, {*known, *_VERBOSE})]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if prints:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        for logger, level in levels:
            stack.callback(logger.setLevel, level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


def root_cause(error: BaseException) -> str:
    """Return the first line of the error at the start of a chain of causes, without a full stop."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        f"{type(error).__name__}: {line}".rstrip(".: ") if len(line) < 200 else f"{type(error).__name__}: {line[:200]}…"
    )
