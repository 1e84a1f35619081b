"""FastNAS's student of a teacher of benchmarks/earns.py, cut in an environment of its own."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from earns_jobs import FLOPS, Job, Settings
from earns_setting import Setting
from inherit_arms.peer import Peer
from torch import Tensor, nn

from nas_distill.teacher.weights import load_weights, read_weights

OPTIONS = ("--divisor", "4", "--score", "250")
"""Widths as for the searches, and half the images per score: with more, a network of 27 blocks takes all images."""


@dataclass(frozen=True)
class PeerStudent:
    """A network with weights inherited, batch norm calibrated, and what it took."""

    network: nn.Module
    looks: int
    seconds: float


def peer_student(job: Job, setting: Setting, settings: Settings) -> PeerStudent:
    """Return the student of a limit, for which it searches once per work folder: it has no seed."""
    name = f"{job.teacher}-{job.limit.key}"
    options = [*OPTIONS, "--teacher", settings.teachers[job.teacher]]
    assert settings.peer is not None  # without it there is no such job
    peer = Peer(settings.peer, settings.work / "fastnas", root=settings.root, options=options)
    if not peer.there(name):
        search = peer.job(name, job.limit.share * setting.costs(setting.space.unpruned)[FLOPS])
        search.log.parent.mkdir(parents=True, exist_ok=True)
        with search.log.open("ab") as log:
            subprocess.run(search.command, stdout=log, stderr=log, check=True)
    path = peer.weights(name)
    found = peer.found(name)
    network = fitted(setting.teacher.module, state := read_weights(path))
    load_weights(network, state, str(path))
    return PeerStudent(network.requires_grad_(True), found["looks"], found["seconds"])


def fitted(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a network whose convolutions, batch norms and linear layers have the sizes of given weights."""
    network = copy.deepcopy(module)
    for name, layer in network.named_modules():
        for key, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            tensor.data = state[f"{name}.{key}"].clone()
        if isinstance(layer, nn.Conv2d):
            layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = len(layer.weight)
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
    return network
