"""The teacher's shape with other widths: built, narrowed uniformly to a limit, and filled with given weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_distill.config import FromTeacherConfig
from nas_distill.costs.counting import count
from nas_distill.data import Dataset
from nas_distill.models import resnet
from nas_distill.models.layers import conv_bn, initialise
from nas_distill.pruning.discovery import find_plan
from nas_distill.pruning.importance import Order, unit_orders
from nas_distill.pruning.plan import KeptUnits, Plan
from nas_distill.pruning.reconstruction import Moments, input_moments, reconstruct
from nas_distill.pruning.statistics import recalibrate_batch_norm
from nas_distill.pruning.surgery import prune
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.teacher import Teacher
from nas_distill.teacher.weights import load_weights, read_weights

CUTTING = FromTeacherConfig()
"""How nas_distill cuts a teacher unless told otherwise: here, too, what is controlled for must not differ."""
_FINEST, _MULTIPLE = 1000, 8


@dataclass(frozen=True)
class Widths:
    """Channels of the stem, and for each block inside of it (``inner``) and behind it (``outer``)."""

    stem: int
    inner: tuple[int, ...]
    outer: tuple[int, ...]

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Widths:
        """Read them off the weights of a ResNet of basic blocks."""
        blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
        convolutions = [[state[f"blocks.{block}.body.{place}.weight"] for place in (0, 3)] for block in range(blocks)]
        return cls(
            len(state["stem.0.weight"]),
            tuple(len(first) for first, _ in convolutions),
            tuple(len(second) for _, second in convolutions),
        )

    def as_list(self) -> list[int]:
        """Return the stem's, then for each block the inner and the outer ones."""
        return [self.stem, *(width for pair in zip(self.inner, self.outer, strict=True) for width in pair)]

    @classmethod
    def from_list(cls, values: Sequence[int]) -> Widths:
        """Read what ``as_list`` gave."""
        return cls(values[0], tuple(values[1::2]), tuple(values[2::2]))

    def text(self) -> str:
        """Write as ``stem, inner-outer, ...``."""
        return ", ".join([str(self.stem), *(f"{a}-{b}" for a, b in zip(self.inner, self.outer, strict=True))])


def build(*, stem: int, blocks: Sequence[Mapping[str, int]], input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Build the teacher's shape (stages of one basic block each) with these widths and random weights.

    The teacher widens in each block but the first, so each of them has a convolution in its shortcut, as a network cut
    from it does where its widths happen to be equal.
    """
    stages = [{"depth": 1, "width": widths["outer"]} for widths in blocks]
    network = resnet.build(stem=stem, stages=stages, input_shape=input_shape, num_classes=num_classes)
    for block, widths in zip(network.blocks, blocks, strict=True):
        body = block.get_submodule("body")
        assert isinstance(body, nn.Sequential)
        first, middle = body[0], widths["inner"]
        assert isinstance(first, nn.Conv2d)
        body[0] = nn.Conv2d(first.in_channels, middle, 3, first.stride, 1, bias=False)  # type: ignore[arg-type]
        body[1] = nn.BatchNorm2d(middle)
        body[3] = nn.Conv2d(middle, widths["outer"], 3, 1, 1, bias=False)
    for before, block, widths in zip(blocks, list(network.blocks)[1:], blocks[1:]):
        if before["outer"] == widths["outer"]:
            shortcut = block.get_submodule("shortcut")
            assert isinstance(shortcut, nn.Sequential)
            shortcut.extend(conv_bn(widths["outer"], widths["outer"], 1))
    initialise(network)
    return network


def space_of(widths: Widths) -> SearchSpace:
    """Return a space that holds only the network of these widths."""
    blocks = [{"inner": [middle], "outer": [outside]} for middle, outside in zip(widths.inner, widths.outer)]
    parameters = {"stem": [widths.stem], "blocks": {"each": blocks}}
    return SearchSpace.from_dict({"name": "widths", "builder": f"{__name__}:build", "parameters": parameters})


def flops(widths: Widths, data: Dataset) -> float:
    """Return the multiply-adds of the network of these widths."""
    space = space_of(widths)
    module = NetworkBuilder.of(space, data).build(space.smallest())
    return count(module, data.input_shape, ["flops"])["flops"]


def uniform(widths: Widths, limit: float, data: Dataset) -> Widths:
    """Return the narrowing within a limit of multiply-adds that is as uniform as multiples of 8 allow.

    The factor that meets the limit exactly is found by bisection over whole widths. Of all ways to round them down or
    up to multiples of 8 that fit, the one is taken whose widths are nearest to it (squared logarithms of their ratios).
    The first block adds the stem to its output, so both have one width.
    """
    whole = widths.as_list()

    def fits(values: Sequence[int]) -> bool:
        return flops(Widths.from_list(values), data) <= limit

    low, high = 1, _FINEST
    while low < high:
        middle = (low + high + 1) // 2
        if fits([max(1, width * middle // _FINEST) for width in whole]):
            low = middle
        else:
            high = middle - 1
    wanted = [width * low / _FINEST for width in whole]

    def distance(values: Sequence[int]) -> float:
        return sum(math.log(value / want) ** 2 for value, want in zip(values, wanted, strict=True))

    steps = [int(width) // _MULTIPLE for width in wanted]
    choices = [
        sorted({min(size, max(1, step + more) * _MULTIPLE) for more in (0, 1)}) for step, size in zip(steps, whole)
    ]
    rounded = [values for values in product(*choices) if values[0] == values[2]]
    fitting = [values for values in rounded if fits(values)]
    if not fitting:
        raise SystemExit(f"No uniform narrowing in multiples of {_MULTIPLE} has at most {limit:.0f} multiply-adds.")
    return Widths.from_list(min(fitting, key=distance))


class Known:
    """Data shared by all cuts of one teacher: its plan, the orders of its units, the moments of its inputs."""

    def __init__(self, teacher: Teacher, data: Dataset) -> None:
        self._module, self._data = teacher.module, data
        self._orders: dict[tuple[str, int], dict[str, Order]] = {}

    @cached_property
    def plan(self) -> Plan:
        """The pruning plan."""
        return find_plan(copy.deepcopy(self._module), self._data.input_shape)

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """Moments of the inputs of its layers."""
        return input_moments(self._module, self.plan, self._data, CUTTING.samples)

    def orders(self, criterion: str, seed: int) -> dict[str, Order]:
        """Return the units of each group, the most important first."""
        if (criterion, seed) not in self._orders:
            self._orders[criterion, seed] = unit_orders(
                self._module, self.plan, self._data, criterion=criterion, samples=CUTTING.samples, seed=seed
            )
        return self._orders[criterion, seed]


def pruned(
    teacher: Teacher,
    widths: Widths,
    data: Dataset,
    *,
    criterion: str = CUTTING.importance,
    reconstructed: bool = CUTTING.reconstruct,
    seed: int = 0,
    known: Known | None = None,
) -> nn.Module:
    """Return the teacher cut to these widths by a criterion of importance, its batch norm re-estimated.

    ``reconstructed``: with least-squares reconstruction. ``known``: what was found of the teacher before.
    """
    module = copy.deepcopy(teacher.module)
    known = known or Known(teacher, data)
    plan = known.plan
    orders = known.orders(criterion, seed)
    wanted = {"stem.0": widths.stem}
    for block, (middle, outside) in enumerate(zip(widths.inner, widths.outer, strict=True)):
        wanted |= {f"blocks.{block}.body.0": middle, f"blocks.{block}.body.3": outside}
    keep = {}
    for group in plan.groups:
        # Layers that are added make one group; all that it has in ``wanted`` ask for the same number.
        asked = {wanted[slot.module] for slot in group.slots if slot.side == "out" and slot.module in wanted}
        if len(asked) != 1:
            raise SystemExit(f"Group {group.name} of the teacher cannot be cut to {widths.text()}.")
        keep[group.name] = tuple(sorted(orders[group.name][: asked.pop()]))
    kept = KeptUnits(keep)
    if reconstructed:
        reconstruct(module, plan, kept, known.moments)
    student = prune(module, plan, kept).requires_grad_(True)
    recalibrate_batch_norm(student, data, CUTTING.samples)
    return student


@dataclass(frozen=True)
class GivenWeights:
    """Lets students begin with the weights of a file."""

    path: Path

    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        """Give the student the file's weights."""
        load_weights(student, read_weights(self.path), str(self.path))


def shape_of(teacher: Teacher) -> Widths:
    """Return the teacher's own widths."""
    with torch.no_grad():
        return Widths.of(teacher.module.state_dict())
