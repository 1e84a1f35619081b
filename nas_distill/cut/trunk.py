"""The blocks of a network's trunk: found, or named by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nas_distill.common.errors import SpaceError, did_you_mean
from nas_distill.common.layers.calls import Call, Recording
from nas_distill.cut.sums import Sums
from nas_distill.space.architecture import join

HOW_TO_NAME = "name its blocks in the order of the forward pass, as in space: {from_teacher: {blocks: [...]}}"


@dataclass(frozen=True)
class Stretch:
    """A block as it was called: from a tensor with ``inputs`` channels to one with ``outputs``.

    ``same``: both are of one shape. ``signed``: what it returns has negative values. ``branch``: what it returns is
    added to what went beside it, so that it is not a part of the trunk that could be passed over.
    """

    module: str
    inputs: int
    outputs: int
    stride: int
    tokens: bool
    dims: int
    same: bool
    signed: bool
    branch: bool

    @property
    def axis(self) -> int:
        """Where the channels are."""
        return -1 if self.tokens else 1


def find_trunk(
    module: nn.Module, recording: Recording, sums: Sums, names: Sequence[str] | None = None
) -> list[Stretch]:
    """Return the blocks of the trunk in the order of the forward pass; none where there is no trunk.

    A block is an entry of a Sequential or ModuleList that has parts, is called once, and maps feature maps to feature
    maps or tokens to tokens. Entries with residual blocks in lists of their own are stages: those blocks are meant. In
    a network without such blocks, convolutions in a Sequential are the blocks. In a network that has neither, several
    attributes of one module that are called one after the other are the blocks: those with parts, or convolutions.

    Args:
        module: the network.
        recording: of its forward pass.
        sums: of the same pass.
        names: the blocks, where a user names them.

    Raises:
        SpaceError: what is named is no block.
    """
    passes = _Passes(recording, sums)
    if names is not None:
        return _named(module, passes, names)
    blocks = (
        _inside(module, "", passes, parts=True)
        or _inside(module, "", passes, parts=False)
        or _attributes(module, "", passes, parts=True)
        or _attributes(module, "", passes, parts=False)
    )
    return sorted(blocks, key=lambda block: passes.start(block.module))


class _Passes:
    """What passes through the modules that are called once."""

    def __init__(self, recording: Recording, sums: Sums) -> None:
        calls: dict[str, list[Call]] = {}
        for call in recording.calls:
            calls.setdefault(call.name, []).append(call)
        self._once = {name: several[0] for name, several in calls.items() if len(several) == 1}
        self._sums = sums

    def start(self, name: str) -> int:
        return self._once[name].started

    def end(self, name: str) -> int:
        return self._once[name].ended

    def residual(self, name: str) -> bool:
        return self._sums.residual(name)

    def stretch(self, name: str) -> Stretch | None:
        """Return a module as a block; None if it is none."""
        call = self._once.get(name)
        if call is None or call.given is None or call.made is None or name not in self._sums.direct:
            return None
        given, made = call.given, call.made
        if given.dim() != made.dim() or given.dim() not in (3, 4, 5):
            return None
        tokens = given.dim() == 3 and not _is_of_sequences(call.module)
        axis = -1 if tokens else 1
        return Stretch(
            name,
            inputs=given.shape[axis],
            outputs=made.shape[axis],
            stride=1 if tokens else _stride(given.shape[2:], made.shape[2:]),
            tokens=tokens,
            dims=given.dim() - 2,
            same=given.shape == made.shape,
            signed=bool((made < 0).any()),
            branch=self._sums.around(name, made),
        )


def _stride(given: Sequence[int], made: Sequence[int]) -> int:
    """Return the stride of a convolution with padding between maps of two sizes; 0 if there is none."""
    stride = round(given[0] / made[0])
    return stride if stride and tuple(made) == tuple(-(-size // stride) for size in given) else 0


def _is_of_sequences(module: nn.Module) -> bool:
    """Convolutions of sequences take (B, C, L); inside of transformers they are beside linear layers."""
    parts = list(module.modules())
    return any(isinstance(part, nn.Conv1d) for part in parts) and not any(isinstance(part, nn.Linear) for part in parts)


def _inside(module: nn.Module, prefix: str, passes: _Passes, *, parts: bool) -> list[Stretch]:
    found: list[Stretch] = []
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        block = passes.stretch(path) if listed and _is_block(child, parts) else None
        if block is None or _is_stage(child, path, passes):
            found += _inside(child, f"{path}.", passes, parts=parts)
        else:
            found.append(block)
    return found


def _attributes(module: nn.Module, prefix: str, passes: _Passes, *, parts: bool) -> list[Stretch]:
    """Return the blocks of a chain of attributes: the outermost module with two or more such parts has them."""
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    possible = [passes.stretch(path) for path, child in children if _is_block(child, parts)]
    chain: list[Stretch] = []
    for block in sorted(
        (block for block in possible if block is not None), key=lambda block: passes.start(block.module)
    ):
        if not chain or passes.start(block.module) > passes.end(chain[-1].module):
            chain.append(block)
    if len(chain) > 1:
        return chain
    return [block for path, child in children for block in _attributes(child, f"{path}.", passes, parts=parts)]


def _is_block(module: nn.Module, parts: bool) -> bool:
    if not parts:
        return isinstance(module, _ConvNd)
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _is_stage(module: nn.Module, path: str, passes: _Passes) -> bool:
    """Say whether there are residual blocks in a list inside of a module, which adds nothing itself."""
    if passes.residual(path):
        return False
    parts = module.named_modules(prefix=path)
    lists = [(name, part) for name, part in parts if isinstance(part, nn.Sequential | nn.ModuleList)]
    entries = (join(name, index) for name, part in lists for index, _ in part.named_children())
    return any(passes.residual(entry) and passes.stretch(entry) is not None for entry in entries)


def _named(module: nn.Module, passes: _Passes, names: Sequence[str]) -> list[Stretch]:
    if not names:
        raise SpaceError(f"blocks names no block; {HOW_TO_NAME}.")
    known = [name for name, _ in module.named_modules() if name]
    found: list[Stretch] = []
    for name in names:
        if name not in known:
            raise SpaceError(f"blocks: the teacher has no module '{name}'{did_you_mean(name, known)}")
        block = passes.stretch(name)
        if block is None:
            raise SpaceError(
                f"blocks: '{name}' is no block: it must be called once in a forward pass, with a tensor as its first "
                "argument, and map feature maps (B, C, H, W) to feature maps or tokens (B, N, D) to tokens."
            )
        if found and passes.start(name) < passes.end(found[-1].module):
            raise SpaceError(f"blocks: '{name}' does not come after '{found[-1].module}' in the forward pass.")
        found.append(block)
    return found
