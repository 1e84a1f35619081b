"""NVIDIA Model Optimizer's FastNAS prunes the teacher to a limit of multiply-adds; run in an environment that has it.

    python fastnas.py --root FOLDER --limit 3715660 --output FOLDER

It takes a teacher that nas_distill ships, and writes ``model.safetensors`` (the pruned weights, batch-norm statistics
calibrated) and ``fastnas.json`` (what it looked at, how long, what it tightened). Nothing is trained.

What is done for it, so that it gives what it can:

- it counts two for a multiply-add, so that its limit is twice ours; it leaves the result as it is when that is over the
  limit, so that the limit is tightened here until nas_distill's own count agrees;
- it calibrates batch norm for each candidate only if it was given at least 50 batches (with fewer it says so in a
  warning and continues with the wrong statistics), so 50 it gets;
- widths are multiples of ``--divisor`` 2 (its own default of 32 would leave the teacher's first layers whole; with 8,
  as nas_distill cuts, its one threshold for all groups left up to a quarter of the limit unused).
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.config import TeacherSource
from nas_distill.costs.counting import count
from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.teacher import load_teacher
from nas_distill.teacher.weights import save_weights
from nas_distill.utils.files import write_json
from nas_distill.utils.seeds import seeded_torch

BATCHES = 50
"""Fewer, and FastNAS does not calibrate batch norm at all."""
ATTEMPTS = 12
WEIGHTS, DESCRIPTION, SENSITIVITY = "model.safetensors", "fastnas.json", "sensitivity.pth"


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    views = Views(count=1, pad=2, flip=True)
    data = load_dataset("fashion-mnist", root=options.root, views=views)
    held_out = torch.arange(len(data.train) - options.score, len(data.train))
    calibration = [
        (data.batch("train", index, 0)[0],)
        for index in torch.arange(len(data.train) - options.score)[: BATCHES * options.batch].split(options.batch)
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / SENSITIVITY).unlink(missing_ok=True)  # one of an attempt that was killed lacks its looks
    began = time.perf_counter()
    found = _prune_to_fit(data, options, calibration, held_out)
    model = found.pop("model")
    save_weights(model, options.output / WEIGHTS)
    write_json(
        options.output / DESCRIPTION, {**found, "divisor": options.divisor, "seconds": time.perf_counter() - began}
    )


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", help="folder of the whole Fashion-MNIST; without it, the embedded subset")
    made.add_argument("--teacher", default="fashion-resnet")
    made.add_argument("--limit", type=float, required=True, help="multiply-adds as nas_distill counts them")
    made.add_argument("--output", type=Path, required=True)
    made.add_argument("--divisor", type=int, default=2, help="widths are multiples of it")
    made.add_argument("--batch", type=int, default=10, help=f"images in each of {BATCHES} batches for calibration")
    made.add_argument("--score", type=int, default=500, help="training images held out for its score")
    return made.parse_args()


def _prune_to_fit(
    data: Dataset, options: argparse.Namespace, calibration: list[tuple[Tensor]], held_out: Tensor
) -> dict[str, Any]:
    """Prune, and where nas_distill counts the result over the limit, prune again to a tighter one."""
    limit, told = options.limit, []
    looks = 0
    for _ in range(ATTEMPTS):
        model, searched = _prune(data, options, limit, calibration, held_out)
        looks += searched["looks"]
        flops = count(model, data.input_shape, ["flops"])["flops"]
        told.append({"limit": limit, "flops": flops, **searched})
        if flops <= options.limit:
            return {"model": model, "flops": flops, "looks": looks, "attempts": told}
        limit *= min(0.97, options.limit / flops)
    raise SystemExit(f"FastNAS found nothing within {options.limit:.0f} multiply-adds in {ATTEMPTS} attempts: {told}")


def _prune(
    data: Dataset, options: argparse.Namespace, limit: float, calibration: list[tuple[Tensor]], held_out: Tensor
) -> tuple[nn.Module, dict[str, Any]]:
    # Only here: the module is read, if not run, where Model Optimizer is not installed.
    import modelopt.torch.prune as mtp  # type: ignore[import-not-found]
    from modelopt.torch.prune.fastnas import FastNASConfig  # type: ignore[import-not-found]

    model = load_teacher(TeacherSource(name=options.teacher), data).module.requires_grad_(True)
    shown = _Shown()
    watch = next(part for part in model.modules() if isinstance(part, nn.Conv2d)).register_forward_pre_hook(shown)
    labels = data.batch("train", held_out)[1]
    pieces = [data.batch("train", piece)[0] for piece in held_out.split(250)]

    def score(candidate: nn.Module) -> float:
        candidate.eval()  # which calibrates batch norm, if a new candidate was selected
        with torch.no_grad():
            answers = torch.cat([candidate(piece).argmax(1) for piece in pieces])
        return float((answers == labels).double().mean())

    config = FastNASConfig().model_dump()
    config["nn.Conv2d"]["*"]["channel_divisor"] = options.divisor
    config["nn.BatchNorm2d"]["*"]["feature_divisor"] = options.divisor
    config["nn.Linear"]["*"]["feature_divisor"] = options.divisor
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught, seeded_torch(0, "fastnas"):
        warnings.simplefilter("always")
        model, state = mtp.prune(
            model,
            mode=[("fastnas", config)],
            constraints={"flops": 2 * limit},
            dummy_input=torch.zeros(1, *data.input_shape),
            config={
                "score_func": score,
                "data_loader": calibration,
                "collect_func": lambda batch: batch,
                "max_iter_data_loader": BATCHES,
                "checkpoint": str(options.output / SENSITIVITY),  # a tighter attempt takes the scores of the first
                "verbose": False,
            },
        )
        notes = sorted(
            {str(entry.message).splitlines()[0] for entry in caught if "checkpoint" not in str(entry.message).lower()}
        )
    watch.remove()
    score_after = _calibrated(model, calibration, pieces, labels)
    looks = shown.images
    sensitivity = {name: dict(row) for name, row in state["sensitivity_map"].items()}
    return model, {
        "counted_by_it": None if state["best"]["constraints"] is None else state["best"]["constraints"]["flops"] / 2,
        "satisfied": bool(state["best"].get("is_satisfied")),
        "looks": looks,
        "teacher_score": state["original_score"],
        "score": score_after,
        "sensitivity": sensitivity,
        "config": {name: choice for name, choice in state["best"]["config"].items() if "channels" in name},
        "notes": notes,
    }


class _Shown:
    """Counts the images that a network was shown, without those single ones that FLOPs are counted with."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.images += len(args[0]) if len(args[0]) > 1 else 0


def _calibrated(model: nn.Module, calibration: list[tuple[Tensor]], pieces: list[Tensor], labels: Tensor) -> float:
    """Re-estimate batch-norm statistics of the result, in place (export leaves those of the last score); its score."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for batch in calibration:
            model(*batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
        answers = torch.cat([model(piece).argmax(1) for piece in pieces])
    return float((answers == labels).double().mean())


if __name__ == "__main__":
    main()
