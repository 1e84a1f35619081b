import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from nas_distill.costs import LatencySample, conditions, time_file, time_module, time_modules
from nas_distill.costs import timing as module
from nas_distill.costs.runtimes import onnx_runtime
from nas_distill.costs.timing import cpu_name, export_for_timing
from nas_distill.utils.errors import BuildError, CostError

torch.set_num_threads(1)


def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


SHAPE = (3, 8, 8)


def test_a_sample_holds_times_and_conditions():
    sample = time_module(small(), SHAPE, batch=2, threads=1, repeats=7)

    assert 0 < sample.p50_ms <= sample.p95_ms
    assert sample.repeats == 7
    assert sample.conditions == conditions(2, 1)
    assert sample.conditions.runtime == f"ONNX Runtime {onnxruntime.__version__}"
    assert sample.conditions.cpu == cpu_name() != ""
    assert "batch 2, 1 thread," in sample.conditions.text()


def test_the_network_is_timed_in_eval_mode():
    model = small().train()
    model[1].running_mean.fill_(0.3)
    exported = export_for_timing(model, (2, *SHAPE))
    data = torch.randn(2, *SHAPE)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])

    (result,) = session.run(None, {session.get_inputs()[0].name: data.numpy()})

    assert model.training
    with torch.no_grad():
        expected = model.eval()(data).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was():
    model = small().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)

    time_module(model, SHAPE, repeats=2)

    assert torch.equal(torch.rand(3), expected)
    assert [entry.training for entry in model] == [True, False, True, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_is_printed_or_logged(capfd, caplog):
    time_module(small(), SHAPE, repeats=2)

    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_networks_of_other_kinds_are_timed_too():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    table = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))

    assert time_module(layer, (5, 16), repeats=2).p50_ms > 0
    assert time_module(table, (3,), repeats=2, dtype=torch.int64).p50_ms > 0


def test_several_are_timed_and_the_result_of_a_broken_one_is_its_error():
    counts = []

    first, broken, last = time_modules([small(), nn.Linear(7, 7), small()], SHAPE, repeats=11, progress=counts.append)

    assert isinstance(first, LatencySample)
    assert isinstance(last, LatencySample)
    assert first.repeats == last.repeats == 11
    assert isinstance(broken, BuildError)
    assert counts == [1, 2, 3]


def test_large_networks_are_not_all_loaded_at_once(monkeypatch):
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    groups = []
    timed = module._time
    monkeypatch.setattr(module, "_time", lambda runs, *rest: groups.append(len(runs)) or timed(runs, *rest))

    samples = time_modules([small(), small(), small()], SHAPE, repeats=2)

    assert groups == [1, 1, 1]
    assert all(isinstance(sample, LatencySample) for sample in samples)


def test_the_newer_exporter_is_used_if_the_older_one_fails(monkeypatch):
    def missing(*arguments):
        raise AttributeError("no such exporter")

    monkeypatch.setattr(onnx_runtime, "_export_by_trace", missing)

    assert time_module(nn.Linear(3, 2), (3,), repeats=2).p50_ms > 0


def test_a_model_that_cannot_be_exported_is_reported_in_one_sentence(monkeypatch):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    monkeypatch.setattr(onnx_runtime, "_export_by_graph", onnx_runtime._export_by_trace)

    with pytest.raises(CostError, match="cannot be exported to ONNX") as caught:
        time_module(Odd(), (3, 3))
    assert "\n" not in str(caught.value)


def test_a_file_is_timed_like_its_module(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(export_for_timing(small(), (1, *SHAPE)))

    sample = time_file(path, SHAPE, repeats=3)

    assert sample.p50_ms > 0
    assert sample.repeats == 3


def test_files_that_cannot_be_timed_are_reported_in_one_sentence(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(CostError, match="does not exist"):
        time_file(path, SHAPE)
    path.write_bytes(b"nonsense")
    with pytest.raises(CostError, match="valid ONNX model"):
        time_file(path, SHAPE)
    path.write_bytes(export_for_timing(small(), (1, *SHAPE)))
    with pytest.raises(CostError, match=r"with shape \(1, 3, 9, 9\)") as caught:
        time_file(path, (3, 9, 9))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": 0}, {"repeats": 0}])
def test_invalid_conditions_are_refused(wrong):
    with pytest.raises(CostError, match="at least"):
        time_module(nn.Linear(3, 2), (3,), **wrong)


def test_a_forward_that_fails_names_the_shape():
    with pytest.raises(BuildError, match=r"\(1, 3, 9, 9\)"):
        time_module(small(), (3, 9, 9))
