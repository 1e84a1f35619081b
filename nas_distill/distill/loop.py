"""The training loop: seeded epochs of batches, learning rate, optimiser step, and a state that is saved and resumed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.config import OptimizerConfig
from nas_distill.data import Dataset
from nas_distill.distill.schedule import Length, epochs_begun, rate_factor
from nas_distill.utils.checkpoints import read_state, write_state
from nas_distill.utils.errors import TrainingError
from nas_distill.utils.seeds import derive, seeded_torch, torch_generator

_STATE = "state.pt"


class TrainingLoop(ABC):
    """A training that may stop after any step; a subclass says what a step learns.

    Order of samples, views and dropout depend on ``seed`` and the step only, so that stopping at a step, saving,
    loading elsewhere and continuing gives bit for bit what a training without a stop gives (on one kind of machine with
    one number of threads).

    A subclass calls ``optimize`` once its weights exist.

    Args:
        data: its training split is trained on.
        places: (N,) the samples of that split that are trained on.
        length: the steps.
        optimizer: settings; the learning rate follows ``decay`` after ``warmup``, a share of the steps.
        seed: of the order of samples and of each step's random numbers.
        order: names of the random choice that is the order of samples, beside its epoch.
        device: where it trains.

    Attributes:
        step: optimiser steps done.
        seconds: time spent training, over all resumptions.
    """

    def __init__(
        self,
        data: Dataset,
        places: Tensor,
        length: Length,
        optimizer: OptimizerConfig,
        *,
        warmup: float,
        decay: str = "cosine",
        seed: int,
        order: tuple[str, ...] = ("order",),
        device: torch.device | str = "cpu",
    ) -> None:
        self.data = data
        self.length = length
        self.seed = seed
        self.device = torch.device(device)
        self.step = 0
        self.seconds = 0.0
        self._places, self._order_name = places, order
        self._settings, self._warmup, self._decay = optimizer, warmup, decay
        self._order: tuple[int, Tensor] = -1, places

    def optimize(
        self, weights: Iterable[nn.Parameter], *, independent: bool = False, half: torch.dtype | None = None
    ) -> None:
        """Make the optimiser of the weights that take a gradient; see ``make_optimizer``.

        ``half``: the type that the forward pass computes in where it is not that of the weights.
        """
        self.half = half
        self._optimizer = make_optimizer(weights, self._settings, independent=independent)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.length.batch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return self.length.per_epoch

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.length.steps

    @property
    def epoch(self) -> int:
        """How many epochs are done or begun."""
        return epochs_begun(self.step / self.steps_per_epoch)

    @property
    def total_epochs(self) -> int:
        """How many epochs the training has; the last may be a part of one."""
        return epochs_begun(self.total_steps / self.steps_per_epoch)

    @property
    def epoch_end(self) -> int:
        """The optimiser step that ends the epoch that comes next, or is under way."""
        return min((self.step // self.steps_per_epoch + 1) * self.steps_per_epoch, self.total_steps)

    def advance(self, to_step: int, on_step: Callable[[], None] | None = None) -> None:
        """Train up to optimiser step ``to_step`` (at most ``total_steps``); what ``on_step`` raises passes.

        Raises:
            TrainingError: the training cannot continue; see the subclass.
        """
        since = time.perf_counter()
        with seeded_torch(self.seed, "advance", self.step), self._training_context():
            for index, view in self._batches(to_step):
                self._train_step(index, view)
                since = self._clock(since)
                if on_step is not None:
                    on_step()
        self._clock(since)

    def save(self, folder: Path) -> None:
        """Save everything that continuing needs; the file is whole or the one before stays.

        Raises:
            StorageError: it cannot be written (the disk is full, say).
        """
        state = {
            "identity": self._identity(),
            "step": self.step,
            "seconds": self.seconds,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            **self._state(),
        }
        write_state(folder / _STATE, state)

    def load(self, folder: Path) -> bool:
        """Continue from what ``save`` left in ``folder``; False if there is nothing.

        Raises:
            TrainingError: the file is damaged, or of a training with other settings, data, teacher or seed.
            StorageError: it cannot be read.
        """
        path = folder / _STATE
        if not path.exists():
            return False
        state = read_state(path)
        if state["identity"] != self._identity():
            raise TrainingError(
                f"Checkpoint {path} is of another training (settings, data, teacher, seed or network have changed); "
                "delete it to train again from the start."
            )
        self._restore(state)
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def delete_checkpoint(self, folder: Path) -> None:
        """Delete what ``save`` left."""
        (folder / _STATE).unlink(missing_ok=True)

    @abstractmethod
    def _compute_gradients(self, index: Tensor, view: int) -> None:
        """Give the weights the gradients (``_backward``, ``_clip``) of the samples ``index`` in ``view``."""

    @abstractmethod
    def _training_context(self) -> AbstractContextManager[None]:
        """Return the context in which steps are taken: modules in training mode, hooks attached."""

    @abstractmethod
    def _identity(self) -> str:
        """Return a digest of what a checkpoint must have in common with this training."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return what the subclass has of state, beside step and optimiser."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Take up what ``_state`` returned."""

    def _train_step(self, index: Tensor, view: int) -> None:
        self._seed_step()
        self._set_rate()
        self._optimizer.zero_grad(set_to_none=True)
        self._compute_gradients(index, view)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1

    def _backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def _clip(self, weights: Iterable[nn.Parameter]) -> None:
        """Bound the norm of the gradients of ``weights`` together, where the settings say so."""
        if self._settings.clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(weights, self._settings.clip)

    def _batches(self, to_step: int) -> Iterator[tuple[Tensor, int]]:
        """Yield the batches (places, view) of the steps from the next one up to ``to_step``."""
        for step in range(self.step, min(to_step, self.total_steps)):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != self._order[0]:
                generator = torch_generator(self.seed, *self._order_name, epoch)
                self._order = epoch, self._places[torch.randperm(len(self._places), generator=generator)]
            yield self._order[1][position * self.batch_size :][: self.batch_size], epoch % self.data.views.count

    def _seed_step(self) -> None:
        seed = derive(self.seed, "step", self.step)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed asks after every other device too
        else:
            torch.manual_seed(seed)

    def _set_rate(self) -> None:
        rate = self._settings.lr * rate_factor((self.step + 0.5) / self.total_steps, self._warmup, self._decay)
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _clock(self, since: float) -> float:
        now = time.perf_counter()
        self.seconds += now - since
        return now


def make_optimizer(
    weights: Iterable[nn.Parameter], config: OptimizerConfig, *, independent: bool = False
) -> torch.optim.Optimizer:
    """Return an optimiser of weights that take a gradient; weight decay is for matrices and filters only.

    ``independent``: what it does to one weight does not depend on the others, not even on their layout in memory.

    Raises:
        TrainingError: there are none.
    """
    weights = [weight for weight in weights if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrainingError("The student has no weights to train.")
    kernel: dict[str, Any] = {"foreach": True}
    if not independent:
        kernel = {"fused": all(_fusible(weight) for weight in weights) or None}  # None leaves the choice to torch
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, **kernel)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, **kernel)


def _fusible(weight: Tensor) -> bool:
    """Say whether one kernel may update it with all others, which on a CPU takes a sixth of the time.

    That kernel walks weight and gradient as they lie in memory, and only of dense weights do the gradients lie alike.
    """
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return dense and weight.is_floating_point() and weight.device.type in ("cpu", "cuda")
