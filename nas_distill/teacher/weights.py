"""Weight files: safetensors, or pickled state dicts read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nas_distill.utils.errors import TeacherError, first_line
from nas_distill.utils.files import atomic_path
from nas_distill.utils.modules import quiet


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, atomically."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from a pickled file with ``weights_only=True``.

    Raises:
        TeacherError: the file is missing or damaged, or is a pickle that contains anything but tensors.
    """
    if not path.exists():
        raise TeacherError(f"Weights {path} do not exist.")
    if path.suffix == ".safetensors":
        try:
            result: dict[str, Tensor] = load_file(path)
            return result
        except (SafetensorError, OSError, ValueError) as error:
            raise TeacherError(f"Weights {path} are damaged or not safetensors ({first_line(error)}).") from error
    try:
        with quiet():  # torch warns about old pickle formats, which are read or refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TeacherError(
            f"Weights {path} are damaged or contain more than tensors, which could run code when loaded; save only "
            "model.state_dict(), or use safetensors."
        ) from error
    except Exception as error:
        raise TeacherError(f"Weights {path} cannot be read ({first_line(error)}).") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        what = type(state).__name__
        if isinstance(state, dict):
            odd = next(key for key, value in state.items() if not isinstance(value, Tensor))
            what += f" whose '{odd}' is a {type(state[odd]).__name__}"
        raise TeacherError(f"Weights {path} contain a {what}, not a state dict of tensors; save model.state_dict().")
    return state


def load_weights(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict into a module.

    Raises:
        TeacherError: names are missing or unexpected, or shapes differ; the message names the first.
    """
    own = module.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unexpected:
        which = f"has no '{missing[0]}'" if missing else f"has '{unexpected[0]}', which the module lacks"
        raise TeacherError(
            f"Weights {source} do not fit the module: the file {which} ({len(missing)} missing, {len(unexpected)} "
            "unexpected); check builder and arguments."
        )
    for key, value in own.items():
        if not is_lazy(value) and value.shape != state[key].shape:
            raise TeacherError(
                f"Weights {source} do not fit the module: '{key}' is {tuple(state[key].shape)} in the file and "
                f"{tuple(value.shape)} in the module; check the builder's arguments."
            )
    try:
        module.load_state_dict(state)
    except Exception as error:  # a module may override how it loads its state
        raise TeacherError(f"Weights {source} cannot be loaded into the module ({first_line(error)}).") from error
