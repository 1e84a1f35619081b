"""The backbone of a network: its blocks (found, or named by the user), their signatures, and the droppable ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from nas_distill.pruning.plan import Block, Group
from nas_distill.pruning.verification import Boundaries, Verifier
from nas_distill.spaces.architecture import join
from nas_distill.utils.errors import SpaceError, did_you_mean
from nas_distill.utils.layers.calls import Call, Recording
from nas_distill.utils.layers.hooks import Hooks

_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


class SumRecorder(TorchFunctionMode):
    """Recorder of sums of features in forward passes of ``module``; a context manager.

    Attributes:
        added: for each sum of two maps (of any number of dimensions) or of two token sequences, the innermost module
            in whose forward pass it was computed, and both addends.
        direct: modules whose first argument is a tensor.
        padded: modules that pad the channels of (B, C, H, W) maps, in the order of the forward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.added: list[tuple[str, Tensor, Tensor]] = []
        self.direct: set[str] = set()
        self.padded: list[str] = []
        self._module = module
        self._open: list[str] = []
        self._hooks = Hooks()

    def is_residual(self, name: str) -> bool:
        """Say whether the module called ``name`` adds features itself."""
        return any(holder == name for holder, _, _ in self.added)

    def is_addend(self, name: str, made: Tensor) -> bool:
        """Say whether a module around the one called ``name`` adds its output ``made`` to something else."""
        return any(
            (made is one or made is other) and (not holder or name.startswith(f"{holder}."))
            for holder, one, other in self.added
        )

    def __enter__(self) -> SumRecorder:
        self._hooks.__enter__()
        for name, part in self._module.named_modules():

            def opens(part: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                self._open.append(name)
                if args and isinstance(args[0], Tensor):
                    self.direct.add(name)

            def closes(part: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
                self._open.pop()

            self._hooks.before(part, opens)
            self._hooks.after(part, closes)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._hooks.__exit__(kind, error, trace)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ADDITIONS and len(args) > 1 and self._open:
            one, other = args[:2]
            both = isinstance(one, Tensor) and isinstance(other, Tensor)
            if both and one.dim() in (3, 4, 5) and one.shape == other.shape:
                self.added.append((self._open[-1], one, other))
        elif func is functional.pad and self._open:
            given = dict(zip(("input", "pad"), args)) | dict(kwargs or {})
            if given["input"].dim() == 4 and any(tuple(given["pad"])[4:6]) and self._open[-1] not in self.padded:
                self.padded.append(self._open[-1])
        return func(*args, **(kwargs or {}))


HOW_TO_NAME = "name its blocks in the order of the forward pass, as in space: {from_teacher: {blocks: [...]}}"


@dataclass(frozen=True)
class BlockSignature:
    """The shapes of a block's call: from a tensor with ``inputs`` channels to one with ``outputs`` channels.

    Attributes:
        module: dotted name.
        inputs, outputs: numbers of channels.
        stride: see ``Block.stride``.
        tokens: it maps (B, N, D) tokens, not maps.
        dims: dimensions of its maps; 1 for tokens.
        same: input and output have the same shape.
        signed: the output has negative values.
        branch: the output is added to a parallel path, so the block is not a part of the backbone that can be skipped.
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
        """The dimension of the channels."""
        return -1 if self.tokens else 1


def find_backbone(
    module: nn.Module, recording: Recording, sums: SumRecorder, names: Sequence[str] | None = None
) -> list[BlockSignature]:
    """Return the blocks of the backbone in the order of the forward pass; an empty list if there is no backbone.

    A block is an entry of a Sequential or ModuleList that has submodules, is called once, and maps feature maps to
    feature maps or tokens to tokens. An entry that contains residual blocks in lists of its own is a stage: its
    residual blocks are the blocks. In a network without such blocks, convolutions in a Sequential are the blocks. In a
    network that has neither, several attributes of one module that are called one after the other are the blocks:
    those with submodules, or convolutions.

    Args:
        module: the network.
        recording: of its forward pass.
        sums: of the same pass.
        names: the blocks, if the user names them.

    Raises:
        SpaceError: a name is not that of a block.
    """
    passes = _ModuleCalls(recording, sums)
    if names is not None:
        return _named(module, passes, names)
    blocks = (
        _inside(module, "", passes, parts=True)
        or _inside(module, "", passes, parts=False)
        or _attributes(module, "", passes, parts=True)
        or _attributes(module, "", passes, parts=False)
    )
    return sorted(blocks, key=lambda block: passes.start(block.module))


class _ModuleCalls:
    """The calls of modules that are called exactly once."""

    def __init__(self, recording: Recording, sums: SumRecorder) -> None:
        calls: dict[str, list[Call]] = {}
        for call in recording.calls:
            calls.setdefault(call.name, []).append(call)
        self._once = {name: several[0] for name, several in calls.items() if len(several) == 1}
        self._sums = sums

    def start(self, name: str) -> int:
        return self._once[name].started

    def end(self, name: str) -> int:
        return self._once[name].ended

    def is_residual(self, name: str) -> bool:
        return self._sums.is_residual(name)

    def signature(self, name: str) -> BlockSignature | None:
        """Return the signature of a module as a block; None if it cannot be a block."""
        call = self._once.get(name)
        if call is None or call.input is None or call.output is None or name not in self._sums.direct:
            return None
        given, made = call.input, call.output
        if given.dim() != made.dim() or given.dim() not in (3, 4, 5):
            return None
        tokens = given.dim() == 3 and not _is_of_sequences(call.module)
        axis = -1 if tokens else 1
        return BlockSignature(
            name,
            inputs=given.shape[axis],
            outputs=made.shape[axis],
            stride=1 if tokens else _stride(given.shape[2:], made.shape[2:]),
            tokens=tokens,
            dims=given.dim() - 2,
            same=given.shape == made.shape,
            signed=bool((made < 0).any()),
            branch=self._sums.is_addend(name, made),
        )


def _stride(given: Sequence[int], made: Sequence[int]) -> int:
    """Return the stride with which a padded convolution maps one size to the other; 0 if there is none."""
    stride = round(given[0] / made[0])
    return stride if stride and tuple(made) == tuple(-(-size // stride) for size in given) else 0


def _is_of_sequences(module: nn.Module) -> bool:
    """Say whether a module maps (B, C, L) sequences: it has 1-D convolutions and no linear layers (transformers do)."""
    parts = list(module.modules())
    return any(isinstance(part, nn.Conv1d) for part in parts) and not any(isinstance(part, nn.Linear) for part in parts)


def _inside(module: nn.Module, prefix: str, passes: _ModuleCalls, *, parts: bool) -> list[BlockSignature]:
    found: list[BlockSignature] = []
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        block = passes.signature(path) if listed and _is_block(child, parts) else None
        if block is None or _is_stage(child, path, passes):
            found += _inside(child, f"{path}.", passes, parts=parts)
        else:
            found.append(block)
    return found


def _attributes(module: nn.Module, prefix: str, passes: _ModuleCalls, *, parts: bool) -> list[BlockSignature]:
    """Return the blocks of a chain of attributes, those of the outermost module with two or more candidates."""
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    possible = [passes.signature(path) for path, child in children if _is_block(child, parts)]
    chain: list[BlockSignature] = []
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


def _is_stage(module: nn.Module, path: str, passes: _ModuleCalls) -> bool:
    """Say whether a module is a stage: it adds nothing itself, and a list inside of it has residual blocks."""
    if passes.is_residual(path):
        return False
    parts = module.named_modules(prefix=path)
    lists = [(name, part) for name, part in parts if isinstance(part, nn.Sequential | nn.ModuleList)]
    entries = (join(name, index) for name, part in lists for index, _ in part.named_children())
    return any(passes.is_residual(entry) and passes.signature(entry) is not None for entry in entries)


def _named(module: nn.Module, passes: _ModuleCalls, names: Sequence[str]) -> list[BlockSignature]:
    if not names:
        raise SpaceError(f"blocks is empty; {HOW_TO_NAME}.")
    known = [name for name, _ in module.named_modules() if name]
    found: list[BlockSignature] = []
    for name in names:
        if name not in known:
            raise SpaceError(f"blocks: the teacher has no module '{name}'{did_you_mean(name, known)}")
        block = passes.signature(name)
        if block is None:
            raise SpaceError(
                f"blocks: '{name}' is not a block: a block must be called once in a forward pass, with a tensor as its "
                "first argument, and map feature maps (B, C, H, W) to feature maps or tokens (B, N, D) to tokens."
            )
        if found and passes.start(name) < passes.end(found[-1].module):
            raise SpaceError(f"blocks: '{name}' does not come after '{found[-1].module}' in the forward pass.")
        found.append(block)
    return found


def find_blocks(
    backbone: Sequence[BlockSignature], groups: Sequence[Group], narrowed: Mapping[str, Boundaries], verifier: Verifier
) -> list[Block]:
    """Return the plan's blocks.

    The channels at a boundary belong to the groups whose cut narrows them: ``narrowed`` has the effect of cutting each
    group on the boundaries of blocks, by the group's name.
    """
    blocks = []
    for signature in backbone:
        returned = verifier.block_values[signature.module].returned
        input, inputs = _boundary_group(
            {group.name: narrowed[group.name][signature.module][0] for group in groups}, signature.inputs
        )
        output, outputs = _boundary_group(
            {group.name: narrowed[group.name][signature.module][1] for group in groups}, signature.outputs
        )
        if returned not in (None, 1):  # a replacement returns one value
            output, outputs = None, 0
        blocks.append(
            Block(
                module=signature.module,
                droppable=signature.same and not signature.branch and input == output and inputs == outputs > 0,
                input=input,
                output=output,
                stride=signature.stride,
                inputs=inputs,
                outputs=outputs,
                tokens=signature.tokens,
                signed=signature.signed,
                wrapped=returned is not None,
                dims=signature.dims,
            )
        )
    return _with_verified_drops(blocks, groups, verifier)


def _boundary_group(narrowed: Mapping[str, bool | None], channels: int) -> tuple[str | None, int]:
    """Return a boundary's group, and its channels in the teacher; 0 if they are not those of one group in order."""
    groups = {name: aligned for name, aligned in narrowed.items() if aligned is not None}
    if not groups:
        return None, channels
    return (next(iter(groups)), channels) if list(groups.values()) == [True] else (None, 0)


def _with_verified_drops(blocks: Sequence[Block], groups: Sequence[Group], verifier: Verifier) -> list[Block]:
    """Return the blocks; droppable ones are limited to a set without which the network runs."""
    dropped = [block for block in blocks if block.droppable]
    if dropped and not verifier.check_drops(dropped, groups):
        dropped = []
        for block in blocks:
            if block.droppable and verifier.check_drops([*dropped, block], groups):
                dropped.append(block)
    return [replace(block, droppable=block in dropped) for block in blocks]
