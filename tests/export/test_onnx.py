import logging
import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from nas_distill.costs.runtimes.onnx_runtime import export_onnx, read_metadata
from nas_distill.evaluate.predict import predict_logits
from nas_distill.export.graph import load_program, save_program
from nas_distill.utils.errors import ExportError
from nas_distill.utils.modules import quiet, root_cause

SHAPE = (1, 8, 8)


def test_the_runtime_reproduces_the_network_for_any_batch_size(network, exported):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["input"]
    assert [entry.name for entry in session.get_outputs()] == ["logits"]
    for count in (1, 2, 9):
        x = torch.randn(count, *SHAPE)
        (logits,) = session.run(None, {"input": x.numpy()})
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, predict_logits(network, [x]).numpy(), atol=1e-5)


def test_the_file_is_self_contained_and_names_its_dimensions(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["student.onnx"]
    model = onnx.load(exported, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    (source,), (result,) = model.graph.input, model.graph.output
    shape = [dim.dim_param or dim.dim_value for dim in source.type.tensor_type.shape.dim]
    assert shape == ["batch", 1, 8, 8]
    assert [dim.dim_param or dim.dim_value for dim in result.type.tensor_type.shape.dim] == ["batch", 5]
    assert b"site-packages" not in exported.read_bytes()


def test_the_file_contains_its_metadata(exported):
    assert read_metadata(exported) == {
        "teacher": "fashion teacher",
        "architecture": "0123456789abcdef",
        "normalisation": {"scale": 1 / 255, "mean": [0.28], "std": [0.35]},
        "class_names": ["T-shirt", "Größe", "c", "d", "e"],
        "input_shape": [1, 8, 8],
        "accuracy": 0.93,
    }


def test_exporting_does_not_change_the_module(network, exported, before):
    assert [module.training for module in network.modules()] == before["modes"]
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before["state"][name]) for name, value in network.state_dict().items())


def test_a_student_loaded_as_a_graph_exports_too(network, exported, tmp_path):
    save_program(network, SHAPE, tmp_path / "model.pt2")
    path = export_onnx(load_program(tmp_path / "model.pt2"), SHAPE, tmp_path / "s.onnx")
    x = {"input": np.random.default_rng(0).normal(size=(3, *SHAPE)).astype("float32")}
    results = [onnxruntime.InferenceSession(str(file)).run(None, x)[0] for file in (path, exported)]
    np.testing.assert_allclose(*results, atol=1e-5)


def test_exporting_is_silent(tmp_path):
    code = """
import sys, torch
from torch import nn
from nas_distill.evaluate.predict import predict_logits
from nas_distill.costs.runtimes.onnx_runtime import export_onnx
export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8), sys.argv[1])
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, str(tmp_path / "s.onnx")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "torchvision" not in done.stderr
    assert "FutureWarning" not in done.stderr
    assert done.stderr == ""


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Fixed(nn.Module):
    def forward(self, x):
        return torch.zeros(2, 3) + x.mean()


class Raises(nn.Module):
    def forward(self, x):
        raise KeyError("stage 3 is missing")


@pytest.mark.parametrize(
    ("module", "said"),
    [(Branches(), "data-dependent"), (Fixed(), "any size"), (Raises(), "KeyError: 'stage 3 is missing'")],
)
def test_a_failed_export_reports_the_root_cause_and_keeps_the_older_file(module, said, tmp_path):
    (tmp_path / "s.onnx").write_bytes(b"an older file")
    with pytest.raises(ExportError, match=said) as error:
        export_onnx(module, (3,), tmp_path / "s.onnx")
    assert "s.onnx" in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older file"]


def test_unwritable_paths_and_invalid_names_are_errors(tmp_path, exported, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    monkeypatch.setattr("nas_distill.costs.runtimes.onnx_runtime._proto", lambda *_: onnx.load(exported))
    with pytest.raises(ExportError, match="cannot be written"):
        export_onnx(net, (4,), tmp_path / "file" / "s.onnx")
    with pytest.raises(ExportError, match=r"end in \.onnx"):
        export_onnx(net, (4,), tmp_path / "s.pt")
    with pytest.raises(ExportError, match="'note'"):
        export_onnx(net, (4,), tmp_path / "s.onnx", metadata={"note": object()})


def test_weights_beyond_the_size_limit_of_a_file_are_refused_first(tmp_path):
    with torch.device("meta"):
        net = nn.Linear(2**15, 2**14)
    with pytest.raises(ExportError, match=r"2\.0 GiB of weights"):
        export_onnx(net, (2**15,), tmp_path / "s.onnx")


def test_reading_metadata_of_another_file_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        read_metadata(tmp_path / "none.onnx")
    (tmp_path / "s.onnx").write_bytes(b"\x80\x04 not protobuf")
    with pytest.raises(ExportError, match="damaged or not an ONNX file"):
        read_metadata(tmp_path / "s.onnx")


def test_quiet_restores_output_warnings_and_loggers(capsys, caplog):
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with quiet():
        print("hidden")
        warnings.warn("hidden", stacklevel=1)
        logger.warning("hidden")
    with pytest.raises(ValueError, match="through"), quiet():
        raise ValueError("through")
    assert logger.level == level
    print("shown")
    assert capsys.readouterr() == ("shown\n", "")
    assert caplog.text == ""


def test_the_root_cause_is_one_line():
    outer = RuntimeError("outer\nlines")
    outer.__cause__ = KeyError("deep")
    assert root_cause(outer) == "KeyError: 'deep'"
    assert root_cause(ValueError("\n one.\n two")) == "ValueError: one"
    assert root_cause(OSError(28, "No space left on device")) == "No space left on device"
    assert len(root_cause(ValueError("x" * 1000))) < 230
