"""Verification of exported files: comparison of their outputs with those of the network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_distill.costs.runtimes import DEFAULT, Runtime, find_runtime
from nas_distill.evaluate.predict import predict_logits
from nas_distill.tasks import find_task
from nas_distill.utils.errors import ExportError, first_line
from nas_distill.utils.modules import root_cause

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """Comparison of an exported file with its network on the same samples.

    Attributes:
        max_abs_difference: largest absolute difference of two logits, in units of logits; lower is better.
        logit_scale: largest absolute logit of the network, the scale to compare the difference with.
        same_predictions: share of samples with the same predicted class, or in a multi-label task with all labels the
            same, in [0, 1]; higher is better. Predictions can differ only in a near tie, where the logits of the two
            classes differ by at most twice the tolerance. For a regression it is 1.
        count: number of samples compared.
        batch_sizes: sizes of the batches that were run, ascending; 1 is always included.
    """

    max_abs_difference: float
    logit_scale: float
    same_predictions: float
    count: int
    batch_sizes: tuple[int, ...]


def verify_export(
    path: str | Path,
    module: nn.Module,
    inputs: Tensor | Iterable[Tensor],
    *,
    runtime: Runtime | None = None,
    tolerance: float = TOLERANCE,
    task: str = "classification",
) -> Parity:
    """Load an exported file on its runtime and compare it with its network.

    Args:
        path: the file.
        module: the network, on the CPU; its mode is not changed.
        inputs: one tensor of samples (N, ...) or an iterable of batches, float32, at least two samples. The first
            sample also runs as a batch of one, so that two batch sizes are verified.
        runtime: the runtime of the file; None for the default one.
        tolerance: the largest difference allowed, as a share of the network's largest absolute logit.
        task: the task of the logits.

    Raises:
        ExportError: the file is missing, invalid or does not run, or a logit differs from the network's by more than
            the tolerance. (Within the tolerance, predictions can differ only in a near tie.)
    """
    path = Path(path)
    batches = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if sum(len(batch) for batch in batches) < 2:
        raise ExportError(f"{path} cannot be verified: at least two samples are needed.")
    batches = [batches[0][:1], *batches]
    chosen = runtime or find_runtime(DEFAULT)
    try:
        network = chosen.load(path, threads=1)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{path} cannot be verified: {first_line(error)}.") from error
    wanted = predict_logits(module, batches)
    found = torch.cat([_run(chosen, network, batch, path) for batch in batches])
    sizes = tuple(sorted({len(batch) for batch in batches}))
    # The sample that also ran as a batch of one is compared twice, but counted once.
    return _compare(path, wanted, found, sizes, tolerance, task)


def _run(runtime: Runtime, network: Any, batch: Tensor, path: Path) -> Tensor:
    try:
        logits = runtime.run(network, batch.detach().cpu().float().contiguous().numpy())
    except Exception as error:
        raise ExportError(f"{path} does not run on a batch of {len(batch)} ({root_cause(error)}).") from error
    if not isinstance(logits, np.ndarray) or logits.ndim != 2 or len(logits) != len(batch):
        shape = getattr(logits, "shape", type(logits).__name__)
        raise ExportError(f"{path} gives logits of shape {shape} for a batch of {len(batch)}.")
    return torch.from_numpy(logits)


def _compare(path: Path, wanted: Tensor, found: Tensor, sizes: tuple[int, ...], tolerance: float, task: str) -> Parity:
    if found.shape != wanted.shape:
        raise ExportError(
            f"{path} gives logits of shape {tuple(found.shape)} where its network gives {tuple(wanted.shape)}."
        )
    if not (torch.isfinite(wanted).all() and torch.isfinite(found).all()):
        who = "its network" if not torch.isfinite(wanted).all() else "the file"
        raise ExportError(f"{path} cannot be verified: {who} gives logits that are NaN or infinite.")
    wanted, found = wanted.double(), found.double()
    difference, scale = float((wanted - found).abs().max()), float(wanted.abs().max())
    allowed = tolerance * (scale or 1.0)
    if difference > allowed:
        raise ExportError(
            f"{path} does not reproduce the outputs of its network: logits differ by up to {difference:.3g}, "
            f"{difference / (scale or 1.0):.2%} of their scale ({tolerance:.2%} is allowed)."
        )
    same = find_task(task).equal_predictions(wanted, found)[1:]
    return Parity(difference, scale, float(same.double().mean()), len(same), sizes)
