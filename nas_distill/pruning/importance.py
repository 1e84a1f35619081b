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
from nas_distill.pruning.statistics import BATCH, show_inputs
from nas_distill.utils.errors import SpaceError, did_you_mean
from nas_distill.utils.modules import device_of
from nas_distill.utils.seeds import numpy_rng, torch_generator

Order = tuple[int, ...]
Scores = dict[str, Tensor]


def unit_orders(
    module: nn.Module, plan: Plan, data: Dataset, *, criterion: str, samples: int = 2048, seed: int = 0
) -> dict[str, Order]:
    """Return for each group its units, the most important first; of equals the earlier.

    Args:
        module: the teacher; left as it is.
        plan: its groups.
        data: of its training samples, ``samples`` drawn ones are looked at where a criterion looks at any.
        criterion: ``taylor``, ``activation``, ``magnitude`` or ``random``.
        samples: how many.
        seed: of what is random.

    Raises:
        SpaceError: there is no such criterion.
    """
    if criterion not in CRITERIA:
        raise SpaceError(f"unknown criterion of importance '{criterion}'{did_you_mean(criterion, list(CRITERIA))}")
    scores = CRITERIA[criterion](module, plan, data, samples, seed)
    return {name: tuple(torch.argsort(score, descending=True, stable=True).tolist()) for name, score in scores.items()}


def magnitude(module: nn.Module, plan: Plan, data: Dataset, samples: int, seed: int) -> Scores:
    """Return the norm of the weights that make each unit (Li et al., 2017, arXiv:1608.08710); higher is better.

    Where several layers make it (a residual sum), each counts by its norms' share of their mean.
    """
    return {group.name: _norms(module, group) for group in plan.groups}


def activation(module: nn.Module, plan: Plan, data: Dataset, samples: int, seed: int) -> Scores:
    """Return the root mean square of each unit where it is read, times the norm of the weights that read it.

    What a unit adds to the layers after it (as in Wanda; Sun et al., 2024, arXiv:2306.11695); higher is better. Units
    that are read inside of a module that shows nothing (torch's attention) are ordered by ``magnitude``.
    """
    squares: dict[Slot, Tensor] = {}
    reading = [slot for group in plan.groups for slot in group.slots if slot.side == "in"]
    show_inputs(module, data, samples, [(slot.module, _watch(slot, squares)) for slot in reading])
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
    """Return how much the logits would change if a unit were taken away, to first order; higher is better.

    With a gate of 1 on each unit, the mean over samples and random directions of the squared derivative of the logits
    along the direction (first-order sensitivity: Molchanov et al., 2019, arXiv:1906.10771, of the logits instead of a
    loss, so that labels are not needed and a teacher that fits its training samples has gradients too). The derivative
    by the gate is the sum of activation times gradient over the places where layers read the unit. It is squared per
    sample, each sample having a direction of random signs of its own, so that every sample is a draw of the mean; one
    backward pass serves a whole batch.
    """
    watched = copy.deepcopy(module).eval().requires_grad_(False)
    generator = torch_generator(seed, "importance")
    found = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in plan.groups}
    slots = {group.name: gated for group in plan.groups if (gated := _gated(watched, group))}
    network: GatedNetwork | None = None
    places = random_indices(len(data.train), samples)
    for index in places.split(BATCH):
        x = data.batch("train", index)[0].to(device_of(watched))
        network = network or GatedNetwork(watched, slots, x)
        signs = torch.randint(0, 2, (len(x), *network.output_shape), generator=generator).to(x) * 2 - 1
        for name, derivatives in network.derivatives(x, signs).items():
            found[name] += derivatives.double().square().sum(0).cpu() / len(places)
    return found


def chance(module: nn.Module, plan: Plan, data: Dataset, samples: int, seed: int) -> Scores:
    """Return random scores: what every criterion must beat."""
    return {
        group.name: torch.from_numpy(numpy_rng(seed, "importance", group.name).random(group.size))
        for group in plan.groups
    }


CRITERIA: Mapping[str, Callable[[nn.Module, Plan, Dataset, int, int], Scores]] = {
    "taylor": taylor,
    "activation": activation,
    "magnitude": magnitude,
    "random": chance,
}


def _norms(module: nn.Module, group: Group) -> Tensor:
    """Return the norms of what makes the units, each layer's by its mean."""
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
    """Return the slots whose weights are the gate: those that read the unit, or all that make it."""
    reading = [slot for slot in group.slots if slot.side == "in" and weights_of(module, slot)]
    return reading or [slot for slot in group.slots if weights_of(module, slot)]


def _watch(slot: Slot, squares: dict[Slot, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not args:
            return
        last = isinstance(module, nn.Linear | nn.MultiheadAttention | nn.RNNBase)
        inputs = [given.detach().double() for given in args]
        means = [given.square().movedim(-1 if last else 1, 0).flatten(1).mean(1) for given in inputs]
        mean = torch.stack(means).mean(0)  # of queries, keys and values: each is read by as many weights
        squares[slot] = squares.get(slot, 0.0) + by_unit(mean, 0, slot) / len(slot.indices[0])

    return hook


def _none(slot: Slot) -> Tensor:
    return torch.zeros(len(slot.indices), dtype=torch.float64)
