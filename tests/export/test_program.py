import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from nas_distill.common.errors import ExportError
from nas_distill.export.program import _is_plain, load_program, save_program


class Marked:
    """Unpickling it leaves a folder behind, as a sign."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def saved(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36 * 4, 3))
    save_program(network, (1, 8, 8), tmp_path / "model.pt2")
    return network, tmp_path / "model.pt2"


def rewrite(path, change):
    """Change the parts of an archive: ``change`` maps {part: bytes} in place."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def part(parts, end):
    return next(name for name in parts if name.endswith(end))


def edit_model(change):
    def apply(parts):
        name = part(parts, "models/model.json")
        model = json.loads(parts[name])
        change(model)
        parts[name] = json.dumps(model).encode()

    return apply


def test_a_rewritten_archive_still_loads(saved):
    # So that the refusals below are of what was changed, not of the rewriting.
    network, path = saved
    rewrite(path, lambda parts: None)
    x = torch.randn(3, 1, 8, 8)
    network.eval()
    torch.testing.assert_close(load_program(path)(x), network(x))


def test_a_graph_saves_as_a_graph_again(saved, tmp_path):
    network, path = saved
    save_program(load_program(path), (1, 8, 8), tmp_path / "again.pt2")
    x = torch.randn(3, 1, 8, 8)
    network.eval()
    torch.testing.assert_close(load_program(tmp_path / "again.pt2")(x), network(x))


def test_it_holds_no_paths_of_this_machine(saved):
    _, path = saved
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert b"test_program" not in content


def pickled_inputs(parts, sign):
    parts[part(parts, "sample_inputs/model.pt")] = pickle.dumps(Marked(sign))


def pickled_weights(parts, sign):
    name = part(parts, "model_weights_config.json")
    config = json.loads(parts[name])
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    stream = io.BytesIO()
    torch.save(Marked(sign), stream)
    parts[part(parts, "weights/" + first["path_name"])] = stream.getvalue()
    parts[name] = json.dumps(config).encode()


def legacy_weights(parts, sign):
    root = next(iter(parts)).partition("/")[0]
    parts[f"{root}/data/weights/model.pt"] = pickle.dumps(Marked(sign))


def opaque_constant(parts, sign):
    root = next(iter(parts)).partition("/")[0]
    parts[f"{root}/data/constants/opaque_obj_0"] = pickle.dumps(Marked(sign))


def code_as_size(parts, sign):
    def change(model):
        sizes = model["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('os').mkdir({str(sign)!r})"

    edit_model(change)(parts)


def code_as_guard(parts, sign):
    edit_model(lambda model: model.update(guards_code=[f"__import__('os').mkdir({str(sign)!r})"]))(parts)


def python_as_operator(parts, sign):
    edit_model(lambda model: model["graph_module"]["graph"]["nodes"][0].update(target="torch.os.mkdir"))(parts)


def metadata(parts, sign):
    edit_model(lambda model: model["graph_module"]["graph"]["nodes"][0].update(metadata={"custom": "{}"}))(parts)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (pickled_inputs, "pickled inputs"),
        (pickled_weights, "weights are pickled"),
        (legacy_weights, r"data/weights/model\.pt"),
        (opaque_constant, "opaque_obj_0"),
        (code_as_size, "is no size"),
        (code_as_guard, "holds code"),
        (python_as_operator, "'torch.os.mkdir', which is no operator"),
        (metadata, "metadata"),
    ],
)
def test_code_in_a_graph_is_refused_before_it_runs(saved, tmp_path, attack, said):
    _, path = saved
    sign = tmp_path / "it ran"
    rewrite(path, lambda parts: attack(parts, sign))
    with pytest.raises(ExportError, match=said) as error:
        load_program(path)
    assert not sign.exists()
    assert "model.pt2" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_or_missing_graph_is_an_error(saved, tmp_path):
    network, path = saved
    content = bytearray(path.read_bytes())
    content[content.find(network[0].weight.detach().numpy().tobytes())] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"is not the graph of a student.*damaged"):
        load_program(path)
    path.write_bytes(content[:100])
    with pytest.raises(ExportError, match="is not the graph of a student"):
        load_program(path)
    with pytest.raises(ExportError, match="cannot be read"):
        load_program(tmp_path / "none.pt2")


@pytest.mark.parametrize(
    "text", ["1", "s77", "2*s0 + 1", "Symbol('s77', positive=True, integer=True)", "FloorDiv(s0 - 1, 2) + 1", "-u3**2"]
)
def test_sizes_are_plain(text):
    assert _is_plain(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "Symbol('s1').func",
        "lambda: 1",
        "[s0 for s0 in s1]",
        "exec('1')",
        "Symbol('__import__')",
        "s0[0]",
        "sympify('s0')",
        "Symbol('s0')('s1')",
        "",
        None,
        "f'{s0}'",
    ],
)
def test_anything_else_is_no_size(text):
    assert not _is_plain(text)
