import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from nas_distill.export.parity import verify_export
from nas_distill.utils.errors import ExportError


def inputs(count=12):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_an_exported_file_passes_verification(network, exported):
    modes = [module.training for module in network.modules()]
    assert any(modes)
    parity = verify_export(exported, network, inputs())
    assert [module.training for module in network.modules()] == modes
    assert parity.max_abs_difference < 1e-4
    assert parity.same_predictions == 1
    assert parity.count == 12
    assert parity.batch_sizes == (1, 12)


def test_batches_of_several_sizes_are_compared(network, exported):
    parity = verify_export(exported, network, iter(inputs().split([5, 5, 2])))
    assert (parity.count, parity.batch_sizes) == (12, (1, 2, 5))


def perturbed(network, amount, name="head.bias"):
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.state_dict()[name].view(-1)[0] += amount
    return other


def test_the_file_of_another_network_is_refused(network, exported):
    with pytest.raises(ExportError, match=r"logits differ by.*is allowed") as error:
        verify_export(exported, perturbed(network, 0.1), inputs())
    assert str(exported) in str(error.value)


def test_the_tolerance_is_a_share_of_the_largest_logit(network, exported):
    scale = verify_export(exported, network, inputs()).logit_scale
    off = perturbed(network, 0.01 * scale)
    assert verify_export(exported, off, inputs(), tolerance=0.02).max_abs_difference == pytest.approx(
        0.01 * scale, rel=1e-2
    )
    with pytest.raises(ExportError, match=r"0\.50% is allowed"):
        verify_export(exported, off, inputs(), tolerance=0.005)


def test_a_prediction_changed_by_a_near_tie_is_counted_and_not_an_error(network, exported):
    # One class is shifted far enough to change some predictions, within a wide tolerance.
    parity = verify_export(exported, perturbed(network, 0.5), inputs(200), tolerance=10)
    assert 0 < parity.same_predictions < 1


def test_lost_statistics_are_detected(network, exported):
    with pytest.raises(ExportError, match="logits differ by"):
        verify_export(exported, perturbed(network, 0.5, "norm.running_mean"), inputs())


def test_logits_that_are_not_finite_are_refused(network, exported, tmp_path):
    broken = perturbed(network, float("nan"))
    with pytest.raises(ExportError, match="its network gives logits that are NaN"):
        verify_export(exported, broken, inputs())
    model = onnx.load(exported)
    bias = next(entry for entry in model.graph.initializer if entry.dims == [5])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.nan, np.float32), bias.name))
    onnx.save(model, path := tmp_path / "nan.onnx")
    with pytest.raises(ExportError, match="the file gives logits that are NaN"):
        verify_export(path, network, inputs())


def test_a_file_that_is_not_a_model_is_an_error(network, exported, tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        verify_export(tmp_path / "none.onnx", network, inputs())
    path = tmp_path / "s.onnx"
    path.write_bytes(exported.read_bytes()[:500])
    with pytest.raises(ExportError, match="valid ONNX model"):
        verify_export(path, network, inputs())
    model = onnx.load(exported)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(ExportError, match="valid ONNX model"):
        verify_export(path, network, inputs())


def test_inputs_that_do_not_fit_or_are_too_few_are_errors(network, exported):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ExportError, match="does not run on a batch of 1"):
        verify_export(exported, flat, torch.zeros(3, 1, 4, 4))
    with pytest.raises(ExportError, match="at least two samples"):
        verify_export(exported, network, inputs(1))


def test_a_file_with_other_classes_is_an_error(network, exported):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ExportError, match=r"shape \(13, 5\) where its network gives \(13, 3\)"):
        verify_export(exported, other, inputs())
