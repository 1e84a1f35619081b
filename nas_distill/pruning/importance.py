"""Importance of channels, heads and neurons: criteria that order the units of each group."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.pruning.gates import GatedNetwork
from nas_distill.pruning.plan import Group, Plan, Slot
from nas_distill.pruning.slots import by_unit, weights_of
from nas_distill.pruning.statistics import BATCH, observe_inputs
from nas_distill.utils.errors import SpaceError, did_you_mean
from nas_distill.utils.layers.transposed import is_linear
from nas_distill.utils.modules import device_of
from nas_distill.utils.seeds import numpy_rng, torch_generator

Order = tuple[int, ...]
Scores = dict[str, Tensor]


def unit_orders(
    module: nn.Module, plan: Plan, data: Dataset, *, criterion: str, samples: int = 2048, seed: int = 0
) -> dict[str, Order]:
    """Return the units of each group, the most important first; ties keep the teacher's order.

    Args:
        module: the teacher; not changed.
        plan: its groups.
        data: the data set; only its training split is used.
        criterion: ``taylor``, ``activation``, ``magnitude`` or ``random``.
        samples: number of training samples drawn, for criteria that need any.
        seed: of the random parts.

    Raises:
        SpaceError: the criterion is unknown.
    """
    if criterion not in CRITERIA:
        raise SpaceError(f"unknown importance criterion '{criterion}'{did_you_mean(criterion, list(CRITERIA))}")
    scores = CRITERIA[criterion](module, plan, data, samples, seed)
    return {name: tuple(torch.argsort(score, descending=True, stable=True).tolist()) for name, score in scores.items()}


def magnitude(module: nn.Module, plan: Plan, data: Dataset, samples: int, seed: int) -> Scores:
    """Return the norm of the weights that make each unit (Li et al., 2017, arXiv:1608.08710); higher is better.

    If several layers make it (a residual sum), the norms of each layer are divided by their mean before they are added.
    """
    return {group.name: _norms(module, group) for group in plan.groups}


def activation(module: nn.Module, plan: Plan, data: Dataset, samples: int, seed: int) -> Scores:
    """Return the root mean square of each unit, times the norm of the weights that read it.

    It measures what a unit adds to the layers after it (as in Wanda; Sun et al., 2024, arXiv:2306.11695); higher is
    better. Units that are read inside of an opaque module (torch's attention) are ordered by ``magnitude``.
    """
    squares: dict[Slot, Tensor] = {}
    reading = [slot for group in plan.groups for slot in group.slots if slot.side == "in"]
    observe_inputs(module, data, samples, [(slot.module, _observer(slot, squares)) for slot in reading])
    scores: Scores = {}
    for group in plan.groups:
        read = [slot for slot in group.slots if slot in squares]
        parts = []
        for slot in read:
            weights = weights_of(module, slot)
            norms = sum(
                (by_unit(weight.detach().double().square(), axis, slot) for weight, axis in weights), _none(slot)
            )
            parts.append((squares[slot].cpu() * norms.cpu()).sqrt())
        scores[group.name] = torch.stack(parts).sum(0) if parts else _norms(module, group)
    return scores


def taylor(module: nn.Module, plan: Plan, data: Dataset, samples: int, seed: int) -> Scores:
    """Return the change of the logits if a unit were removed, to first order; higher is better.

    Each unit has a gate of 1. The score is the squared derivative of the logits along a random direction with respect
    to the gate, averaged over samples and directions (first-order sensitivity; Molchanov et al., 2019,
    arXiv:1906.10771). It uses the logits instead of a loss, so that labels are not needed and a teacher that fits its
    training samples has gradients too. The derivative with respect to the gate is the sum of activation times gradient
    over all reads of the unit. It is squared per sample, with a direction of random signs per sample, so that each
    sample is an independent draw; one backward pass serves a whole batch.
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    generator = torch_generator(seed, "importance")
    found = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in plan.groups}
    slots = {group.name: gated for group in plan.groups if (gated := _gated(copied, group))}
    network: GatedNetwork | None = None
    drawn = random_indices(len(data.train), samples)
    for index in drawn.split(BATCH):
        x = data.batch("train", index)[0].to(device_of(copied))
        network = network or GatedNetwork(copied, slots, x)
        signs = torch.randint(0, 2, (len(x), *network.output_shape), generator=generator).to(x) * 2 - 1
        for name, derivatives in network.derivatives(x, signs).items():
            found[name] += derivatives.double().square().sum(0).cpu() / len(drawn)
    return found


def random_scores(module: nn.Module, plan: Plan, data: Dataset, samples: int, seed: int) -> Scores:
    """Return random scores, the baseline of every criterion."""
    return {
        group.name: torch.from_numpy(numpy_rng(seed, "importance", group.name).random(group.size))
        for group in plan.groups
    }


CRITERIA: Mapping[str, Callable[[nn.Module, Plan, Dataset, int, int], Scores]] = {
    "taylor": taylor,
    "activation": activation,
    "magnitude": magnitude,
    "random": random_scores,
}


def _norms(module: nn.Module, group: Group) -> Tensor:
    """Return the norms (units,) of the weights that make the units; those of each layer are divided by their mean."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for slot in group.slots:
        weights = [(weight, axis) for weight, axis in weights_of(module, slot) if weight.dim() > 1]
        if slot.side == "out" and weights:
            squared = sum(
                (by_unit(weight.detach().double().square(), axis, slot) for weight, axis in weights), _none(slot)
            )
            norms = squared.sqrt().cpu()
            total += norms / norms.mean().clamp_min(1e-30)
    return total


def _gated(module: nn.Module, group: Group) -> list[Slot]:
    """Return the slots that have gates: those that read the units, or, without such, those that make them."""
    reading = [slot for slot in group.slots if slot.side == "in" and weights_of(module, slot)]
    return reading or [slot for slot in group.slots if weights_of(module, slot)]


def _observer(slot: Slot, squares: dict[Slot, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not args:
            return
        last = is_linear(module) or isinstance(module, nn.MultiheadAttention | nn.RNNBase)
        squared = [input.detach().double().square() for input in args]
        means = [one.movedim(-1 if last else 1, 0).flatten(1).mean(1) for one in squared]
        mean = torch.stack(means).mean(0)  # over queries, keys and values, which equally many weights read
        squares[slot] = squares.get(slot, 0.0) + by_unit(mean, 0, slot) / len(slot.indices[0])

    return hook


def _none(slot: Slot) -> Tensor:
    return torch.zeros(len(slot.indices), dtype=torch.float64)
