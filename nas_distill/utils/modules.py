"""Devices of modules, modules left as they were, and silence of the libraries that process them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas_distill.utils.errors import ConfigError


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


BufferSlot = tuple[dict[str, Tensor | None], str]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a block with ``module`` in eval mode; each part's own flag is given back, a frozen one stays frozen."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False  # not .eval(): a module may override train() to do more than set the flag
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def buffer_slots(module: nn.Module) -> list[BufferSlot]:
    """Return where a module's buffers are held, a shared one once."""
    found: dict[int, BufferSlot] = {}
    for part in module.modules():
        for name, held in part._buffers.items():
            if held is not None:
                found.setdefault(id(held), (part._buffers, name))
    return list(found.values())


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Run a block after which the buffers of ``module`` are as before, whatever a forward pass in it writes to them.

    Copies stand in for them meanwhile, so that what a backward pass saved of the originals is not touched.
    """
    places = [(part._buffers, name) for part in module.modules() for name in part._buffers]
    held = [held[name] for held, name in places]
    copies = {id(value): value.clone() for value in held if value is not None}
    for (buffers, name), value in zip(places, held):
        if value is not None:
            buffers[name] = copies[id(value)]
    try:
        yield
    finally:
        for (buffers, name), value in zip(places, held):
            buffers[name] = value


_TALKATIVE = ("torch", "onnxscript", "onnx_ir", "onnxruntime", "fvcore")


@contextlib.contextmanager
def quiet(*, prints: bool = True) -> Iterator[None]:
    """Hold back warnings and the log lines of torch, ONNX and fvcore; what fails still raises.

    Args:
        prints: hold back what Python code prints, too.
    """
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _TALKATIVE]
    levels = [(logger, logger.level) for logger in map(logging.getLogger, {*known, *_TALKATIVE})]
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
    """Return what an error, or the first one that led to it, says on its first line; without a full stop."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        f"{type(error).__name__}: {line}".rstrip(".: ") if len(line) < 200 else f"{type(error).__name__}: {line[:200]}…"
    )
