"""Time of a distillation step relative to a plain supervised step of the same student.

Each student is trained in four ways, in blocks of steps that take turns: a bare PyTorch loop written here (the same
batches, views and memory layout, SGD with momentum, cross-entropy; no averaging, clipping or schedule), the Distiller
with the teacher's stored logits, with the live teacher, and on labels only. Then the Distiller's additions are timed
one by one. One thread.

    python benchmarks/step_cost.py [--rounds 20] [--steps 20] [--samples 12000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import Quartiles, interleaved, parser, publish, ratios, table
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.config import TrainingConfig
from nas_distill.costs.counting import count
from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.distill import Distiller
from nas_distill.distill.losses import Batch, Outputs
from nas_distill.models.resnet import build as build_resnet
from nas_distill.spaces import Architecture, NetworkBuilder, load_space
from nas_distill.teacher import LiveSignal, Teacher, TeacherSignal, TeacherStore
from nas_distill.utils.modules import memory_format, place
from nas_distill.utils.seeds import numpy_rng, seeded_torch, torch_generator

TRAINING = TrainingConfig(epochs=1000)  # never gets to its end; early rates are low, so no weights diverge
TEACHER: dict[str, Any] = {"stem": 32, "stages": [{"depth": 1, "width": width} for width in (32, 64, 128)]}
STUDENTS = [(space, flops) for space in ("mbconv", "resnet") for flops in (0.5e6, 2e6)]
PLAIN, FUSED, STORE, LIVE, LABELS = "bare loop", "bare loop, fused", "store", "live teacher", "labels only"


class BareLoop:
    """The loop that a user would write without nas_distill."""

    def __init__(self, model: nn.Module, data: Dataset, batch_size: int, *, fused: bool | None = None) -> None:
        self.layout = memory_format(model)
        self.model = place(model, "cpu", self.layout).train()
        self.data = data
        self.batch_size = batch_size
        self.epoch = -1
        self.batches: Iterator[Tensor] = iter(())
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused
        )

    def train(self, steps: int) -> None:
        for _ in range(steps):
            index = next(self.batches, None)
            if index is None:
                self.epoch += 1
                generator = torch_generator(0, "order", self.epoch)
                order = torch.randperm(len(self.data.train), generator=generator)
                self.batches = iter(order.split(self.batch_size)[: len(order) // self.batch_size])
                index = next(self.batches)
            x, labels = self.data.batch("train", index, self.epoch % self.data.views.count)
            loss = functional.cross_entropy(self.model(x.to(memory_format=self.layout)), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    data = _data(options.samples)
    with seeded_torch(0, "teacher"):
        module = build_resnet(**TEACHER, input_shape=data.input_shape, num_classes=data.num_classes)
    teacher = Teacher(module.eval().requires_grad_(False), data.num_classes)
    rows, pieces = [], []
    with TemporaryDirectory() as folder:
        store = TeacherStore.build(Path(folder), teacher, data)
        for space, target in STUDENTS[:: 2 if options.quick else 1]:
            row, piece = _measure(space, target, data, teacher, store, options)
            rows.append(row)
            pieces.append(piece)
    publish("step_cost", "What a distillation step costs", _parts(rows, pieces, data, options), options)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=20, help="blocks of each way")
    made.add_argument("--steps", type=int, default=20, help="steps in a block")
    made.add_argument("--cpu-time", action="store_true", help="count the processor's time: for a machine that is busy")
    made.add_argument("--samples", type=int, default=12_000, help="training samples, and so the size of the store")
    options = made.parse_args()
    if options.quick:
        options.rounds, options.steps, options.samples = 5, 3, 1000
    return options


def _clock(options: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if options.cpu_time else time.perf_counter


def _data(samples: int) -> Dataset:
    whole = load_dataset("fashion-mnist", views=Views(2, 2, True, 0))
    return Dataset.from_tensors(
        whole.train.x[:samples],
        whole.train.y[:samples],
        val=(whole.val.x[:500], whole.val.y[:500]),
        mean=whole.mean,
        std=whole.std,
        views=whole.views,
        num_classes=whole.num_classes,
    )


def _student(space_name: str, target: float, data: Dataset) -> Callable[[], nn.Module]:
    """Return a builder of the space's network nearest to ``target`` FLOPs among some."""
    space = load_space(space_name)
    builder = NetworkBuilder.of(space, data)
    rng = numpy_rng(0, "students", space_name)

    def build(architecture: Architecture) -> nn.Module:
        return builder.build(architecture, 0)

    drawn = [space.sample(rng) for _ in range(60)]
    flops = [count(build(architecture), data.input_shape, ["flops"])["flops"] for architecture in drawn]
    nearest = min(range(len(drawn)), key=lambda place: abs(flops[place] - target))
    return lambda: build(drawn[nearest])


def _measure(
    space: str, target: float, data: Dataset, teacher: Teacher, store: TeacherStore, options: argparse.Namespace
) -> tuple[list[object], list[object]]:
    build = _student(space, target, data)
    flops = count(build(), data.input_shape, ["flops"])["flops"]
    bare = BareLoop(build(), data, TRAINING.batch_size)
    bare_fused = BareLoop(build(), data, TRAINING.batch_size, fused=True)
    signals: dict[str, TeacherSignal | None] = {STORE: store, LIVE: LiveSignal(teacher), LABELS: None}
    distillers = {name: Distiller(build(), data, TRAINING, signal=signal, seed=0) for name, signal in signals.items()}

    clock = _clock(options)

    def block(train: Callable[[], None]) -> Callable[[], float]:
        def timed() -> float:
            started = clock()
            train()
            result: float = 1e3 * (clock() - started) / options.steps
            return result

        return timed

    def advance(distiller: Distiller) -> None:
        distiller.advance(distiller.step + options.steps)

    cases = {
        PLAIN: block(lambda: bare.train(options.steps)),
        FUSED: block(lambda: bare_fused.train(options.steps)),
    }
    for name, distiller in distillers.items():
        cases[name] = block(partial(advance, distiller))
    found = interleaved(cases, options.rounds)
    tensors = sum(1 for _ in bare.model.parameters())
    label = f"{space}, {flops / 1e6:.2f} M FLOPs, {tensors} weight tensors"
    plain = Quartiles.of(found[PLAIN])
    row: list[object] = [
        label,
        plain.text(1),
        *(ratios(found, name, PLAIN).text() for name in (STORE, LABELS, LIVE, FUSED)),
    ]
    return row, [label, *_pieces(distillers[STORE], bare, store, plain.median, options)]


def _pieces(
    distiller: Distiller, bare: BareLoop, store: TeacherStore, step_ms: float, options: argparse.Namespace
) -> list[str]:
    """Time what a Distiller does beside a bare loop, piece by piece; each as a share of the bare loop's step."""
    data, batch = distiller.data, distiller.batch_size
    index = torch.randperm(len(data.train), generator=torch_generator(0, "pieces"))[:batch]
    x, labels = data.batch("train", index, 0)
    teacher = store.answer("train", index, 0, x).logits
    with torch.no_grad():
        given = distiller.model(x)
    weights = [weight for weight in distiller.model.parameters() if weight.grad is not None]

    objective = distiller.objective

    def loss(teacher_logits: Tensor | None) -> Callable[[], None]:
        def run() -> None:
            logits = given.clone().requires_grad_()
            answer = None if teacher_logits is None else Outputs(teacher_logits)
            outputs = [(Outputs(logits), answer)] * len(objective.terms)
            objective(outputs, Batch(labels, index, 0.5)).backward()

        return run

    def schedule_and_seed() -> None:
        distiller._seed_step()
        distiller._set_rate()
        for group in distiller._optimizer.param_groups:
            group["lr"] *= 1e-9  # the weights stay as they are

    cases: dict[str, Callable[[], object]] = {
        "look-up": lambda: store.answer("train", index, 0, x).logits,
        "distillation loss": loss(teacher),
        "cross-entropy": loss(None),
        "averaging": lambda: distiller.averaged.update(distiller.step),
        "clipping": lambda: nn.utils.clip_grad_norm_(weights, 1e9),
        "optimiser": distiller._optimizer.step,
        "bare optimiser": bare.optimizer.step,
        "schedule and seed": schedule_and_seed,
        "batch": lambda: data.batch("train", index, 0),
    }

    clock = _clock(options)

    def timed(run: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            started = clock()
            for _ in range(options.steps):
                run()
            result: float = 1e3 * (clock() - started) / options.steps
            return result

        return measure

    found = interleaved({name: timed(run) for name, run in cases.items()}, options.rounds)
    ms = {name: Quartiles.of(values).median for name, values in found.items()}
    return [
        _share(value, step_ms)
        for value in (
            ms["batch"],
            ms["look-up"],
            ms["distillation loss"] - ms["cross-entropy"],
            ms["averaging"],
            ms["clipping"],
            ms["optimiser"] - ms["bare optimiser"],
            ms["schedule and seed"],
        )
    ]


def _share(ms: float, step_ms: float) -> str:
    return f"{ms:+.3f} ms ({ms / step_ms:+.1%})"


def _parts(
    rows: list[list[object]], pieces: list[list[object]], data: Dataset, options: argparse.Namespace
) -> list[str]:
    clock = " Processor time, not wall time." if options.cpu_time else ""
    about = f"""Random weights (they do not matter for time), one thread, batches of {TRAINING.batch_size} images
{tuple(data.input_shape)} with views (shift and mirror). The teacher is a residual network of the shipped one's size;
its store holds {data.views.count} views of {len(data.train):,} samples. Blocks of {options.steps} steps take turns,
{options.rounds} of each; ratios are taken within a round: median (quartiles). The bare loop has torch's default
optimiser, the Distiller the fused one where the weights allow it; *fused / bare* is the bare loop with that, to show
its own effect. Aim: at most 1.05 with the store.{clock}"""
    detail = """What the Distiller does that a bare loop does not, each timed separately with the same tensors; in
brackets the share of the bare loop's step. *batch* is done by both, shown for scale; *loss* is distillation less
cross-entropy, *optimiser* the Distiller's step less the bare loop's, each with its backward pass."""
    return [
        about,
        table(
            ["student", "bare loop, ms a step", "store / bare", "labels / bare", "live teacher / bare", "fused / bare"],
            rows,
        ),
        detail,
        table(
            ["student", "batch", "look-up", "loss", "averaging", "clipping", "optimiser", "schedule and seed"], pieces
        ),
    ]


if __name__ == "__main__":
    main()
