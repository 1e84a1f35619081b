"""Batch-norm statistics of a network whose weights were taken from another's."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_distill.data import Dataset

BATCH = 128


def reestimate(module: nn.Module, data: Dataset, samples: int = 2048) -> None:
    """Work out running means and variances anew, in place, from ``samples`` training samples; weights stay.

    Cutting channels changes what every later layer sees, so the teacher's statistics no longer fit: without this a cut
    network answers at random before it is trained (Yu and Huang, 2019, arXiv:1903.05134). The average is cumulative,
    over whole batches in the order of the training split, so the result depends on module and data alone.
    A network without batch norm is left as it is. The mode (training or not) of each part is given back.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    momenta = [norm.momentum for norm in norms]
    modes = [(part, part.training) for part in module.modules()]
    module.eval()  # so that dropout does not disturb what is measured
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    batch = min(BATCH, len(data.train))
    count = max(batch, min(samples, len(data.train)) // batch * batch)
    try:
        with torch.no_grad():
            for index in torch.arange(count).split(batch):
                module(data.batch("train", index)[0].to(device))
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        for part, mode in modes:
            part.training = mode
