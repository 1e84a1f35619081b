"""Conformance tests of every deployment runtime, built in or a user's own.

``OWN_RUNTIMES=my_package.runtimes:MyRuntime python -m pytest tests/costs/test_runtime_conformance.py`` tests others
too.
"""

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.costs import LatencyModel, find_runtime, runtime_names, time_file, time_module, time_modules
from nas_distill.costs.timing import export_for_timing
from nas_distill.export.parity import verify_export
from nas_distill.utils.errors import CostError, ExportError, NasDistillError

torch.set_num_threads(1)

SHAPE = (3, 8, 8)
NAMES = [*runtime_names(), "own", *filter(None, os.environ.get("OWN_RUNTIMES", "").split(","))]


def network(width=4):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(width * 36, 5),
        )


def batch(count):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count))


@pytest.fixture(params=NAMES)
def runtime(request):
    name = request.getfixturevalue("own_runtime") if request.param == "own" else request.param
    found = find_runtime(name)
    if not found.is_available():
        with pytest.raises(CostError, match=found.install):
            found.require()
        pytest.skip(f"{found.title} is not installed")
    return found


@pytest.fixture
def exported(runtime, tmp_path):
    path = tmp_path / runtime.file_name
    runtime.export(network(), SHAPE, path, {"teacher": "7", "architecture": None, "class_names": ["a", "b"]})
    return path


def test_a_runtime_has_a_name_a_version_and_a_suffix(runtime):
    assert all((runtime.name, runtime.title, runtime.version(), runtime.install))
    assert runtime.file_name.endswith(runtime.suffix)
    assert runtime.suffix.startswith(".")
    assert type(pickle.loads(pickle.dumps(runtime))) is type(runtime)


def test_an_exported_file_computes_what_its_network_computes(runtime, exported):
    parity = verify_export(exported, network().eval(), [batch(7), batch(3)], runtime=runtime)

    assert parity.batch_sizes == (1, 3, 7)
    assert parity.same_predictions == 1.0


def test_verification_detects_another_network(runtime, exported):
    other = network().eval()
    with torch.no_grad():
        other[0].weight.mul_(1.5)

    with pytest.raises(ExportError, match="logits differ by"):
        verify_export(exported, other, batch(4), runtime=runtime)


def test_a_batch_has_one_row_of_outputs_per_sample(runtime, exported):
    loaded = runtime.load(exported, threads=1)
    inputs = batch(2).numpy()
    found = runtime.run(loaded, inputs)

    assert isinstance(found, np.ndarray)
    assert found.shape == (2, 5)
    assert np.array_equal(found, runtime.run(loaded, inputs))


def test_the_time_of_a_forward_pass_is_positive(runtime, exported):
    loaded = runtime.load(exported)

    assert runtime.time(loaded, batch(1).numpy()) > 0


def test_the_state_of_network_and_torch_threads_is_restored(runtime, tmp_path):
    module = network().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()

    path = tmp_path / runtime.file_name
    runtime.export(module, SHAPE, path)
    runtime.run(runtime.load(path, threads=2), batch(1).numpy())

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert all(part.training for part in module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_nothing_is_printed_or_logged(runtime, tmp_path, capfd, caplog):
    runtime.export(network(), SHAPE, tmp_path / runtime.file_name)
    time_module(network(), SHAPE, repeats=2, runtime=runtime)

    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_failed_export_is_reported_in_one_sentence_and_leaves_no_file(runtime, tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            raise RuntimeError("no way")

    path = tmp_path / runtime.file_name
    with pytest.raises(NasDistillError, match="no way") as caught:
        runtime.export(Odd(), SHAPE, path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("*model*")) == []


def test_a_damaged_file_is_reported_in_one_sentence(runtime, tmp_path):
    path = tmp_path / runtime.file_name
    path.write_bytes(b"nonsense")

    for load in (
        lambda: time_file(path, SHAPE, runtime=runtime),
        lambda: verify_export(path, network(), batch(2), runtime=runtime),
    ):
        with pytest.raises(NasDistillError, match=path.name) as caught:
            load()
        assert "\n" not in str(caught.value)


def test_latency_is_measured_and_predicted_on_it(runtime):
    models = [network(width) for width in (1, 2, 3, 4, 5, 6, 7, 8)]
    prepared = [export_for_timing(model, (2, *SHAPE), None, runtime) for model in models]
    samples = time_modules(prepared, SHAPE, batch=2, repeats=5, runtime=runtime)
    model = LatencyModel.calibrate(models, SHAPE, repeats=5, runtime=runtime)

    assert all(sample.conditions.runtime == f"{runtime.title} {runtime.version()}" for sample in samples)
    assert model.error.count == 8
    assert model.predict(models[0], SHAPE) > 0


def test_integers_and_several_outputs_are_timed(runtime):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, x):
            found = self.table(x)
            return {"tokens": self.head(found), "mean": found.mean(1)}

    assert time_module(Two(), (3,), repeats=2, dtype=torch.int64, runtime=runtime).p50_ms > 0


def test_the_usage_code_runs(runtime, exported):
    code = runtime.usage("{path}", SHAPE).replace("{path}", str(exported))
    found: dict = {}
    exec(code, found)

    assert not code or tuple(found["logits"].shape) == (1, 5)
