"""Training loop: seeded batches, learning rate, optimiser steps, and a state that can be saved and resumed."""

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
    """A training that can stop after any step; a subclass defines the gradients of a step.

    The order of samples, views and dropout depend on ``seed`` and the step only. A training that is stopped, saved,
    loaded elsewhere and continued therefore gives bit-identical results to one without a stop (on the same type of
    machine with the same number of threads).

    A subclass calls ``optimize`` once its weights exist.

    Args:
        data: the data; their training split is used.
        indices: (N,), the samples of that split to train on.
        length: number of steps.
        optimizer: settings; the learning rate follows ``decay`` after ``warmup``, a share of the steps.
        seed: for the order of samples and the random numbers of each step.
        order: names that derive the seed of the order of samples, beside the epoch.
        device: device to train on.

    Attributes:
        step: optimiser steps done.
        seconds: training time, over all resumptions.
    """

    def __init__(
        self,
        data: Dataset,
        indices: Tensor,
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
        self._indices, self._order_name = indices, order
        self._settings, self._warmup, self._decay = optimizer, warmup, decay
        self._order: tuple[int, Tensor] = -1, indices

    def optimize(
        self, weights: Iterable[nn.Parameter], *, independent: bool = False, half: torch.dtype | None = None
    ) -> None:
        """Create the optimiser of the weights that require a gradient; see ``make_optimizer``.

        ``half``: the type of the forward pass if it differs from that of the weights.
        """
        self.half = half
        self._optimizer = make_optimizer(weights, self._settings, independent=independent)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)

    @property
    def batch_size(self) -> int:
        """Samples per step."""
        return self.length.batch

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch."""
        return self.length.per_epoch

    @property
    def total_steps(self) -> int:
        """Steps of the training."""
        return self.length.steps

    @property
    def epoch(self) -> int:
        """Number of epochs done or begun."""
        return epochs_begun(self.step / self.steps_per_epoch)

    @property
    def total_epochs(self) -> int:
        """Number of epochs of the training; the last may be partial."""
        return epochs_begun(self.total_steps / self.steps_per_epoch)

    @property
    def epoch_end(self) -> int:
        """Optimiser step that ends the current or next epoch."""
        return min((self.step // self.steps_per_epoch + 1) * self.steps_per_epoch, self.total_steps)

    def advance(self, to_step: int, on_step: Callable[[], None] | None = None) -> None:
        """Train up to optimiser step ``to_step`` (at most ``total_steps``); errors of ``on_step`` propagate.

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
        """Save the state of the training atomically.

        Raises:
            StorageError: the file cannot be written, for example because the disk is full.
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
        """Restore the state saved in ``folder``; return False if there is none.

        Raises:
            TrainingError: the file is damaged, or belongs to a training with other settings, data, teacher or seed.
            StorageError: the file cannot be read.
        """
        path = folder / _STATE
        if not path.exists():
            return False
        state = read_state(path)
        if state["identity"] != self._identity():
            raise TrainingError(
                f"Checkpoint {path} belongs to another training (settings, data, teacher, seed or network have "
                "changed); delete it to train again from the start."
            )
        self._restore(state)
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def delete_checkpoint(self, folder: Path) -> None:
        """Delete the saved state."""
        (folder / _STATE).unlink(missing_ok=True)

    @abstractmethod
    def _compute_gradients(self, index: Tensor, view: int) -> None:
        """Compute the gradients (``_backward``, ``_clip``) for the samples ``index`` in ``view``."""

    @abstractmethod
    def _training_context(self) -> AbstractContextManager[None]:
        """Return the context of training steps: modules in train mode, hooks attached."""

    @abstractmethod
    def _identity(self) -> str:
        """Return a digest of everything that a checkpoint must share with this training."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return the subclass's state, without step and optimiser."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Restore the result of ``_state``."""

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
        """Clip the joint gradient norm of ``weights``, if the settings have a bound."""
        if self._settings.clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(weights, self._settings.clip)

    def _batches(self, to_step: int) -> Iterator[tuple[Tensor, int]]:
        """Yield the batches (indices, view) of the steps from the next one up to ``to_step``."""
        for step in range(self.step, min(to_step, self.total_steps)):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != self._order[0]:
                generator = torch_generator(self.seed, *self._order_name, epoch)
                self._order = epoch, self._indices[torch.randperm(len(self._indices), generator=generator)]
            yield self._order[1][position * self.batch_size :][: self.batch_size], epoch % self.data.views.count

    def _seed_step(self) -> None:
        seed = derive(self.seed, "step", self.step)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds all other devices
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
    """Return an optimiser of the weights that require a gradient; weight decay applies to matrices and filters only.

    ``independent``: updates of one weight do not depend on the others, not even on their memory layout.

    Raises:
        TrainingError: no weight requires a gradient.
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
    """Return whether a fused kernel may update the weight, which takes a sixth of the time on a CPU.

    The kernel reads weights and gradients in memory order, and only dense weights have gradients of the same layout.
    """
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return dense and weight.is_floating_point() and weight.device.type in ("cpu", "cuda")
