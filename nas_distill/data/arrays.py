"""Arrays shared with tensors without a copy, read-only ones included."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor


def as_tensor_readonly(array: np.ndarray) -> Tensor:
    """Return a tensor over the array's memory; nobody may write to it.

    Workers read one copy of the data from shared memory, which is read-only. Torch warns that it cannot enforce this;
    that one warning is silenced here, and nowhere is such a tensor written in place.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(array)
