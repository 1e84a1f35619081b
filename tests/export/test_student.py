import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nas_distill.export.graph import StudentGraph
from nas_distill.export.student import load_spec, load_student, save_student
from nas_distill.spaces import Architecture, load_space
from nas_distill.utils.errors import ExportError, StorageError

SHAPE, CLASSES = (1, 8, 8), 4
MODULE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, depth, input_shape, num_classes, bias):
        super().__init__()
        channels = input_shape[0]
        layers = []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=bias), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def build(*, width, depth, input_shape, num_classes, bias=True):
    return Net(width, depth, input_shape, num_classes, bias)

def broken(**_):
    raise ValueError("no such width")

def nothing(**_):
    return 3
"""


class Space:
    """The attributes of a search space that saving reads."""

    def __init__(self, builder, arguments=None, paths=()):
        self.builder, self.arguments, self.name = builder, arguments or {}, "toy"
        self.paths = tuple(map(str, paths))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def reset_builders(monkeypatch):
    """Reset the record of used builders, as in a new process."""
    monkeypatch.setattr("nas_distill.utils.references._used", {})


@pytest.fixture
def builders(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy_builders.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "toy_builders", raising=False)
    reset_builders(monkeypatch)
    yield importlib.import_module("toy_builders")
    sys.modules.pop("toy_builders", None)


def trained(make, **arguments):
    torch.manual_seed(1)
    network = make(width=6, depth=2, input_shape=SHAPE, num_classes=CLASSES, **arguments)
    network.train()
    for _ in range(3):
        network(torch.randn(16, *SHAPE) + 2)
    return network.train()


def save(folder, network, builder, arguments=None, **more):
    architecture = Architecture({"width": 6, "depth": 2})
    space = Space(builder, arguments)
    return save_student(folder, network, architecture, space, input_shape=SHAPE, num_classes=CLASSES, **more)


def same(a, b, count=5):
    x = torch.randn(count, *SHAPE)
    was = a.training
    a.eval()
    with torch.no_grad():
        torch.testing.assert_close(a(x), b(x))
    a.train(was)


@pytest.mark.parametrize("named", [True, False])
def test_a_student_survives_a_round_trip(tmp_path, builders, named):
    network = trained(builders.build, bias=False)
    random_state = torch.get_rng_state()
    save(tmp_path / "a b" / "s", network, "toy_builders:build" if named else builders.build, {"bias": False})
    assert network.training
    loaded = load_student(tmp_path / "a b" / "s")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module.training for module in loaded.modules())
    same(network, loaded)
    assert {path.name for path in (tmp_path / "a b" / "s").iterdir()} == {"model.safetensors", "architecture.json"}


def test_the_folder_describes_its_student_completely(tmp_path, builders):
    normalisation = {"scale": 1 / 255, "mean": [0.28], "std": [0.35]}
    save(
        tmp_path,
        trained(builders.build),
        builders.build,
        normalisation=normalisation,
        class_names=list("abcd"),
        metadata={"seed": 3},
    )
    spec = load_spec(tmp_path)
    assert spec["builder"] == "toy_builders:build"
    assert spec["keywords"] == {"width": 6, "depth": 2, "input_shape": [1, 8, 8], "num_classes": 4}
    assert spec["values"] == {"width": 6, "depth": 2}
    assert spec["hash"] == Architecture({"width": 6, "depth": 2}).hash
    assert spec["normalisation"] == normalisation
    assert spec["class_names"] == ["a", "b", "c", "d"]
    assert spec["metadata"] == {"seed": 3}
    assert spec["space"] == "toy"


BY_HAND = """
import importlib, json, sys
sys.path.insert(0, "code")
import torch
from safetensors.torch import load_file
spec = json.load(open("s/architecture.json"))
module, name = spec["builder"].split(":")
model = getattr(importlib.import_module(module), name)(**spec["keywords"])
model.load_state_dict(load_file("s/model.safetensors"))
model.eval()
assert not any(name.startswith("nas_distill") for name in sys.modules)

from nas_distill.export.student import load_student
other = load_student("s", trust=True)
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("nas_distill.")}
assert rooms <= {"costs", "export", "spaces", "utils"}, rooms
assert not {"ray", "optuna", "onnx", "matplotlib", "pandas"} & set(sys.modules)
x = torch.load("x.pt")
torch.save([model(x), other(x)], "y.pt")
"""


def test_loading_needs_no_nas_distill_and_load_student_needs_no_search_code(tmp_path, builders):
    network = trained(builders.build)
    save(tmp_path / "s", network, builders.build)
    x = torch.randn(3, *SHAPE)
    torch.save(x, tmp_path / "x.pt")
    path = os.pathsep.join(entry for entry in [str(Path.cwd()), *sys.path] if entry)
    subprocess.run([sys.executable, "-c", BY_HAND], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    network.eval()
    for found in torch.load(tmp_path / "y.pt"):
        torch.testing.assert_close(found, network(x))


def test_the_folder_of_the_builder_can_be_passed(tmp_path, builders, monkeypatch):
    network = trained(builders.build)
    save(tmp_path / "s", network, "toy_builders:build")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path / "code")])
    monkeypatch.delitem(sys.modules, "toy_builders")
    importlib.invalidate_caches()
    with pytest.raises(ExportError, match=r"module 'toy_builders' cannot be imported.*paths"):
        load_student(tmp_path / "s", trust=True)
    same(network, load_student(tmp_path / "s", paths=[tmp_path / "code"], trust=True))


def test_a_builder_beside_the_search_file_saves_a_graph_too(tmp_path, builders, monkeypatch):
    network = trained(builders.build)
    space = Space("toy_builders:build", paths=[tmp_path / "code"])
    architecture = Architecture({"width": 6, "depth": 2})
    save_student(tmp_path / "s", network, architecture, space, input_shape=SHAPE, num_classes=CLASSES)
    assert not isinstance(load_student(tmp_path / "s"), StudentGraph)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path / "code")])
    monkeypatch.delitem(sys.modules, "toy_builders")
    importlib.invalidate_caches()
    reset_builders(monkeypatch)
    with pytest.warns(UserWarning, match="toy_builders:build"):
        same(network, load_student(tmp_path / "s", trust=True))
    with pytest.warns(UserWarning, match="toy_builders:build"):
        same(network, load_student(tmp_path / "s"))
    assert not isinstance(load_student(tmp_path / "s", paths=[tmp_path / "code"], trust=True), StudentGraph)


def local_builder(builders):
    def build(*, width, depth, input_shape, num_classes):
        return builders.build(width=width, depth=depth, input_shape=input_shape, num_classes=num_classes)

    return build


def test_a_builder_that_cannot_be_imported_saves_a_graph(tmp_path, builders):
    network = trained(builders.build)
    save(tmp_path, network, local_builder(builders))
    with pytest.warns(UserWarning, match="was loaded as a graph"):
        loaded = load_student(tmp_path)
    assert isinstance(loaded, StudentGraph)
    assert not loaded.training
    for count in (1, 2, 7):
        same(network, loaded, count)
    assert loaded.eval() is loaded
    with pytest.raises(ExportError, match="only predict"):
        loaded.train()
    same(network, load_student(tmp_path, builder=local_builder(builders)))  # no warning: the builder was passed


def test_a_builder_of_a_notebook_saves_a_graph(tmp_path, builders, monkeypatch):
    main = types.ModuleType("__main__")
    exec(compile(MODULE, "<cell>", "exec"), main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    network = trained(main.build)
    save(tmp_path, network, main.build)
    assert load_spec(tmp_path)["builder"] == "__main__:build"
    with pytest.warns(UserWarning, match="__main__:build"):
        same(network, load_student(tmp_path))


def test_arguments_that_are_not_json_save_a_graph(tmp_path, builders):
    network = trained(builders.build, bias=np.True_)
    save(tmp_path, network, builders.build, {"bias": np.True_})
    assert load_spec(tmp_path)["keywords"] is None
    with pytest.warns(UserWarning, match="graph"):
        same(network, load_student(tmp_path))


def test_a_later_student_replaces_the_earlier_one(tmp_path, builders):
    save(tmp_path, trained(builders.build), local_builder(builders))
    assert (tmp_path / "model.pt2").exists()
    network = trained(builders.build)
    save(tmp_path, network, builders.build)
    assert not (tmp_path / "model.pt2").exists()
    same(network, load_student(tmp_path))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def test_tied_and_transposed_weights_are_saved(tmp_path):
    network = Tied()
    network.a.weight.data = network.a.weight.data.t()
    network.b.weight = network.a.weight
    save_student(tmp_path, network, Architecture({}), Space(Tied), input_shape=(4,), num_classes=4)
    weights = load_file(tmp_path / "model.safetensors")
    assert torch.equal(weights["a.weight"], network.a.weight)
    assert torch.equal(weights["b.weight"], network.a.weight)


def one_sentence(error):
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors does not exist"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04garbage"), r"model\.safetensors is damaged"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            r"model\.safetensors is damaged",
        ),
        (lambda f: torch.save({"a": 1}, f / "model.safetensors"), r"model\.safetensors is damaged"),
        (lambda f: (f / "architecture.json").unlink(), r"architecture\.json is missing"),
        (lambda f: (f / "architecture.json").write_text('{"format": 1'), r"architecture\.json cannot be read"),
        (lambda f: (f / "architecture.json").write_bytes(b"\xff\xfe"), r"architecture\.json cannot be read"),
        (lambda f: (f / "architecture.json").write_text("[]"), "'builder' is missing"),
        (lambda f: edit(f, format=99), "format 99"),
        (lambda f: edit(f, builder="toy_builders:bild"), r"has no 'bild'; did you mean 'build'"),
        (lambda f: edit(f, builder="no_such_module:build"), "'no_such_module' cannot be imported"),
        (lambda f: edit(f, builder="not a reference"), "not of the form"),
        (lambda f: edit(f, builder="toy_builders:__name__"), "cannot be called"),
        (lambda f: edit(f, builder="os:system"), "not a builder"),
        (lambda f: edit(f, builder=3), "'builder' is a int"),
        (lambda f: edit(f, input_shape=[1, "8", 8]), "whole numbers"),
        (lambda f: edit(f, keywords=[1]), "'keywords' is a list"),
        (lambda f: (f / "architecture.json").write_text("[" * 10**5), r"architecture\.json cannot be read"),
        (lambda f: edit(f, builder="toy_builders:broken"), "its builder raised ValueError: no such width"),
        (lambda f: edit(f, builder="toy_builders:nothing"), "returned a int"),
        (lambda f: edit(f, keywords={"width": 6}), "its builder raised TypeError"),
        (
            lambda f: edit(f, keywords={"width": 5, "depth": 2, "input_shape": [1, 8, 8], "num_classes": 4}),
            r"model\.safetensors does not fit architecture \w{16}: '[\w.]+' has shape \(6",
        ),
        (
            lambda f: edit(f, keywords={"width": 6, "depth": 3, "input_shape": [1, 8, 8], "num_classes": 4}),
            "is missing in the file",
        ),
        (lambda f: add_tensor(f), "'stray' does not exist in the network"),
    ],
)
def test_a_folder_that_does_not_load_gives_the_reason(tmp_path, builders, damage, said):
    save(tmp_path, trained(builders.build), builders.build)
    damage(tmp_path)
    with pytest.raises(ExportError, match=said) as error:
        load_student(tmp_path, trust=True)
    one_sentence(error)
    assert str(tmp_path) in str(error.value)


def edit(folder, **changes):
    path = folder / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def add_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "stray": torch.zeros(1)}, folder / "model.safetensors")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="does not contain a student") as error:
        load_student(tmp_path / "nowhere")
    one_sentence(error)


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def test_a_failure_to_save_gives_one_sentence(tmp_path, builders, monkeypatch):
    network = trained(builders.build)
    with pytest.raises(ExportError, match="must be JSON") as error:
        save(tmp_path / "a", network, builders.build, metadata={"x": object()})
    one_sentence(error)
    with pytest.raises(ExportError, match="'_extra_state'") as error:
        save(tmp_path / "b", Extra(2, 2), builders.build)
    one_sentence(error)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written") as error:
        save(tmp_path / "file" / "s", network, builders.build)
    one_sentence(error)


class Branches(nn.Module):
    def __init__(self, width=4, num_classes=4):
        super().__init__()
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(x) if x.sum() > 0 else -self.head(x)


def test_a_network_that_is_neither_importable_nor_exportable_is_saved_and_needs_its_builder(tmp_path):
    network = Branches()
    save_student(tmp_path, network, Architecture({}), Space(lambda: Branches()), input_shape=(4,), num_classes=4)
    assert not (tmp_path / "model.pt2").exists()
    with pytest.raises(ExportError, match=r"no graph of the student \(.*DataDependent.*pass a builder") as error:
        load_student(tmp_path)
    one_sentence(error)
    x = torch.randn(3, 4)
    assert torch.equal(load_student(tmp_path, builder=lambda: Branches())(x), network(x))


@pytest.mark.parametrize("builder", ["nas_distill.models.resnet:build", "nas_distill.models.mbconv:build"])
def test_students_of_built_in_spaces_survive_a_round_trip(tmp_path, builder):
    space = load_space(builder.split(".")[2].partition(":")[0], paths=[Path.cwd()])
    architecture = space.smallest()
    network = space.build(architecture, input_shape=(1, 12, 12), num_classes=3)
    save_student(tmp_path, network, architecture, space, input_shape=(1, 12, 12), num_classes=3)
    assert load_spec(tmp_path)["builder"] == builder
    assert not (tmp_path / "model.pt2").exists()
    x = torch.randn(2, 1, 12, 12)
    network.eval()
    torch.testing.assert_close(load_student(tmp_path)(x), network(x))
