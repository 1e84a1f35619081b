"""Shortcuts that only pad and pick channels, rewritten as convolutions that can be cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.pruning.plan import Rewrite
from nas_distill.utils.errors import SpaceError
from nas_distill.utils.layers.calls import Recording, inspection


class ChannelMap(nn.Conv2d):
    """A 1x1 convolution initialised as a map of channels: each output is one input channel at a stride, or zero.

    Its bias lets reconstruction compensate for removed inputs. Its weights can be trained.
    """

    def __init__(self, inputs: int, stride: int, sources: Sequence[int | None]) -> None:
        super().__init__(inputs, len(sources), 1, stride)
        self.sources = tuple(sources)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weights of the map; nothing is random."""
        if not hasattr(self, "sources"):  # the parent's constructor draws weights before the map is known
            return
        with torch.no_grad():
            self.weight.zero_()
            for output, source in enumerate(self.sources):
                if source is not None:
                    self.weight[output, source] = 1.0
            if self.bias is not None:
                self.bias.zero_()


def find_rewrites(module: nn.Module, recording: Recording) -> list[Rewrite]:
    """Return the modules without weights that change the channels of maps and equal a ``ChannelMap``.

    They are called once. Equality is exact, in double precision, on the inputs in ``recording`` and on noise.
    """
    calls: dict[str, list[Any]] = {}
    for call in recording.calls:
        calls.setdefault(call.name, []).append(call)
    found: list[Rewrite] = []
    for name, several in calls.items():
        call, part = several[0], several[0].module
        if len(several) > 1 or not name or any(True for _ in (*part.parameters(), *part.buffers())):
            continue
        if call.input is None or call.output is None or call.input.dim() != 4 or call.output.dim() != 4:
            continue
        if call.input.shape[1] != call.output.shape[1]:
            rewrite = _as_map(name, part, call.input)
            if rewrite is not None:
                found.append(rewrite)
    inside = {rewrite.module for rewrite in found}
    return [one for one in found if not any(one.module.startswith(f"{outer}.") for outer in inside)]


def rewrite(module: nn.Module, rewrites: Sequence[Rewrite]) -> nn.Module:
    """Replace the shortcuts of a plan by convolutions, in place, and return ``module``.

    Raises:
        SpaceError: the network has no such module.
    """
    for one in rewrites:
        owner, _, leaf = one.module.rpartition(".")
        try:
            holder = module.get_submodule(owner)
            old = holder.get_submodule(leaf)
        except AttributeError as error:
            raise SpaceError(f"the teacher has no module '{one.module}', which its plan rewrites.") from error
        if isinstance(old, ChannelMap):
            continue
        like = next(module.parameters())
        made = ChannelMap(one.inputs, one.stride, one.sources).to(like).train(old.training)
        holder._modules[leaf] = made.requires_grad_(like.requires_grad)
    return module


def rewritten(module: nn.Module, rewrites: Sequence[Rewrite]) -> nn.Module:
    """Return a copy of ``module`` with its shortcuts rewritten; the module itself if there are none."""
    return rewrite(copy.deepcopy(module), rewrites) if rewrites else module


def _as_map(name: str, part: nn.Module, given: Tensor) -> Rewrite | None:
    noise = torch.randn(given.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        with inspection(part):
            made = part(noise.clone())
            stride = round(noise.shape[2] / made.shape[2])
            picked = noise[:, :, ::stride, ::stride]
            if made.dtype != torch.float64 or picked.shape[2:] != made.shape[2:]:
                return None
            sources = [_source(made[:, output], picked) for output in range(made.shape[1])]
            if any(source < -1 for source in sources):
                return None
            found = Rewrite(name, noise.shape[1], stride, tuple(None if one < 0 else one for one in sources))
            convolution = ChannelMap(found.inputs, found.stride, found.sources).double()
            recorded = given.double()
            same = torch.equal(convolution(noise), made) and torch.equal(convolution(recorded), part(recorded.clone()))
    except Exception:  # user code, which may fail in any way on such inputs
        return None
    return found if same else None


def _source(made: Tensor, picked: Tensor) -> int:
    """Return the index of the channel of ``picked`` (B, C, H, W) that a map equals; -1 for zeros, -2 otherwise."""
    if not made.any():
        return -1
    equal = (picked == made[:, None]).flatten(2).all(2).all(0).nonzero().flatten().tolist()
    return int(equal[0]) if len(equal) == 1 else -2
