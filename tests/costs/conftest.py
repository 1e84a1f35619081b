"""Fixtures with a user-defined cost and a user-defined runtime in importable modules."""

import pytest

OWN = '''
import os

from nas_distill.costs import cost


@cost(unit="mJ")
def energy_mj(module, example, *, picojoules: float = 4.6, broken: str = "") -> float:
    """Energy of one forward pass, in proportion to the number of parameters."""
    if broken == "raise":
        raise KeyError("battery")
    values = {
        "nan": float("nan"), "inf": float("inf"), "negative": -1, "text": "much", "nothing": None, "yes": True,
        "huge": 10**400, "list": [1.0],
    }
    if broken:
        return values[broken]
    return 1e-9 * picojoules * sum(parameter.numel() for parameter in module.parameters())


def plain(module, example):
    """Elements of the output."""
    return module(example).numel()


class NotACost:
    pass


number = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_costs.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_costs:energy_mj"


OWN_RUNTIME = '''
import torch

from nas_distill.utils.errors import CostError, ExportError
from nas_distill.utils.modules import quiet
from nas_distill.costs import Runtime
from nas_distill.costs.undisturbed import frozen_copy


class Pickled(Runtime):
    """Graphs of torch.export, with a constant time."""

    name, title, suffix, install = "pickled", "a slow machine", ".pt", "buy one"

    def is_available(self):
        return True

    def version(self):
        return "3"

    def export(self, module, input_shape, path, notes=None):
        try:
            with quiet():
                traced = torch.export.export(frozen_copy(module), (torch.zeros(2, *input_shape),),
                                             dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:
            raise ExportError(f"{path} cannot be written ({str(error).splitlines()[0]}).") from error
        with path.open("wb") as stream:
            torch.export.save(traced, stream)

    def export_for_timing(self, module, inputs, path):
        with path.open("wb") as stream, quiet():
            torch.export.save(torch.export.export(frozen_copy(module), (inputs,)), stream)

    def load(self, path, *, threads=1):
        try:
            with path.open("rb") as stream, quiet():
                return torch.export.load(stream).module()
        except Exception as error:
            raise CostError(f"{path} cannot be loaded ({type(error).__name__}).") from error

    def input_dtype(self, network):
        import numpy as np

        return np.int64 if any("mbedding" in str(node) for node in network.graph.nodes) else np.float32

    def run(self, network, inputs):
        with torch.no_grad():
            found = network(torch.from_numpy(inputs))
        return (found if isinstance(found, torch.Tensor) else next(iter(found.values()))).numpy()

    def time(self, network, inputs):
        return 0.25


class Missing(Pickled):
    def is_available(self):
        return False


class Failing(Pickled):
    def time(self, network, inputs):
        raise KeyError("clock\\nstopped")


class Backwards(Pickled):
    def time(self, network, inputs):
        return float("nan")


class Unfinished(Runtime):
    name = "unfinished"


class NotARuntime:
    pass
'''


@pytest.fixture
def own_runtime(tmp_path, monkeypatch):
    (tmp_path / "my_runtimes.py").write_text(OWN_RUNTIME)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_runtimes:Pickled"
