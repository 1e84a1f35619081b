"""The blocks of a network's trunk: found, or named by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nas_distill.common.errors import SpaceError, did_you_mean
from nas_distill.common.layers.calls import Call, Recording

_HOW = "name its blocks in the order of the forward pass, as in space: {from_teacher: {blocks: [...]}}"


@dataclass(frozen=True)
class Stretch:
    """A block as it was called: from a tensor with ``inputs`` channels to one with ``outputs``."""

    module: str
    inputs: int
    outputs: int
    stride: int
    tokens: bool
    same: bool
    signed: bool


def find_trunk(module: nn.Module, recording: Recording, names: Sequence[str] | None = None) -> list[Stretch]:
    """Return the blocks of the trunk in the order of the forward pass.

    A block is an entry of a Sequential or ModuleList that has parts, is called once, and maps feature maps to feature
    maps or tokens to tokens. Entries that are themselves Sequentials of blocks are stages: their entries are meant. In
    a network without such blocks, convolutions in a Sequential are the blocks.

    Args:
        module: the network.
        recording: of its forward pass.
        names: the blocks, where a user names them.

    Raises:
        SpaceError: none are found, or what is named is no block.
    """
    calls: dict[str, list[Call]] = {}
    for call in recording.calls:
        calls.setdefault(call.name, []).append(call)
    if names is not None:
        return _named(module, calls, names)
    blocks = _inside(module, "", calls, parts=True) or _inside(module, "", calls, parts=False)
    if not blocks:
        raise SpaceError(f"no trunk of blocks is found in the teacher ({type(module).__name__}); {_HOW}.")
    return sorted(blocks, key=lambda block: calls[block.module][0].started)


def _inside(module: nn.Module, prefix: str, calls: dict[str, list[Call]], *, parts: bool) -> list[Stretch]:
    found: list[Stretch] = []
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        block = _stretch(path, calls) if listed and _is_block(child, parts) else None
        if block is None or _is_stage(child):
            found += _inside(child, f"{path}.", calls, parts=parts)
        else:
            found.append(block)
    return found


def _is_block(module: nn.Module, parts: bool) -> bool:
    if not parts:
        return isinstance(module, _ConvNd)
    return _parts(module) and any(True for _ in module.parameters())


def _is_stage(module: nn.Module) -> bool:
    """Say whether a module is a Sequential of blocks: of parts that have parts, and are more than layers in a row."""
    if type(module) is not nn.Sequential:
        return False
    within = [part for part in module if _parts(part)]
    return any(type(part) is not nn.Sequential or any(_parts(inner) for inner in part) for part in within)


def _parts(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _named(module: nn.Module, calls: dict[str, list[Call]], names: Sequence[str]) -> list[Stretch]:
    if not names:
        raise SpaceError(f"blocks names no block; {_HOW}.")
    known = [name for name, _ in module.named_modules() if name]
    found: list[Stretch] = []
    for name in names:
        if name not in known:
            raise SpaceError(f"blocks: the teacher has no module '{name}'{did_you_mean(name, known)}")
        block = _stretch(name, calls)
        if block is None:
            raise SpaceError(
                f"blocks: '{name}' is no block: it must be called once in a forward pass, and map feature maps "
                "(B, C, H, W) to feature maps or tokens (B, N, D) to tokens."
            )
        if found and calls[name][0].started < calls[found[-1].module][0].ended:
            raise SpaceError(f"blocks: '{name}' does not come after '{found[-1].module}' in the forward pass.")
        found.append(block)
    return found


def _stretch(name: str, calls: dict[str, list[Call]]) -> Stretch | None:
    if len(calls.get(name, ())) != 1:
        return None
    given, made = calls[name][0].given, calls[name][0].made
    if given is None or made is None or given.dim() != made.dim() or given.dim() not in (3, 4):
        return None
    tokens = given.dim() == 3
    axis = -1 if tokens else 1
    return Stretch(
        name,
        given.shape[axis],
        made.shape[axis],
        1 if tokens else _stride(given, made),
        tokens,
        given.shape == made.shape,
        bool((made < 0).any()),
    )


def _stride(given: Tensor, made: Tensor) -> int:
    return max(1, round(given.shape[2] / made.shape[2]))
