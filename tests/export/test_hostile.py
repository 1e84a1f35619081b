"""Hostile student folders, which try to run code, write a file or hang: each is refused with an error."""

import ast
import copy
import io
import json
import os
import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import nas_distill
from nas_distill.export.graph import _traced, load_program, save_program
from nas_distill.export.student import load_student, save_student
from nas_distill.spaces import load_space
from nas_distill.utils.errors import ExportError

SHAPE = (1, 8, 8)


class Marked:
    """Object whose unpickling creates the canary folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A network, its saved graph, and the bytes that torch itself writes for it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36 * 4, 3))
    path = tmp_path_factory.mktemp("clean") / "model.pt2"
    save_program(network, SHAPE, path)
    return network.eval(), path.read_bytes(), _traced(network, SHAPE)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


def parts_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(parts, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content, compression)
    return stream.getvalue()


def pickled(canary):
    stream = io.BytesIO()
    torch.save(Marked(canary), stream)
    return stream.getvalue()


def with_parts(change):
    def attack(content, canary):
        parts = parts_of(content)
        change(parts, canary)
        return packed(parts)

    return attack


def with_json(name, change):
    def edit(parts, canary):
        value = json.loads(parts[name])
        change(value, canary)
        parts[name] = json.dumps(value).encode()

    return with_parts(edit)


def with_graph(change):
    return with_json("models/model.json", lambda model, canary: change(model["graph_module"], canary))


def with_weights(change):
    return with_json("data/weights/model_weights_config.json", lambda value, canary: change(value["config"], canary))


def with_constants(change):
    return with_json(
        "data/constants/model_constants_config.json", lambda value, canary: change(value["config"], canary)
    )


def two_tables(content, canary):
    """Two archives in one file: Python's zipfile finds the clean table of contents, torch's reader the hostile one."""
    good = parts_of(content)
    evil = packed({**good, "data/sample_inputs/model.pt": pickled(canary)})
    good = packed({**good, "data/sample_inputs/model.pt": b""})
    assert zipfile.is_zipfile(io.BytesIO(evil))

    def split(archive):
        count, size, start = struct.unpack("<HLL", archive[-12:-2])
        return archive[:start], bytearray(archive[start : start + size]), count

    bad_entries, bad_table, count = split(evil)
    entries, table, _ = split(good)
    assert len(bad_table) == len(table)
    start = len(bad_entries)
    shift = len(entries) + len(table)  # zipfile adds it to each offset: the last table's real less its stated position
    at = 0
    while at < len(table):
        name, extra, comment = struct.unpack("<HHH", table[at + 28 : at + 34])
        (offset,) = struct.unpack("<L", table[at + 42 : at + 46])
        table[at + 42 : at + 46] = struct.pack("<L", start + len(bad_table) + offset - shift)
        at += 46 + name + extra + comment
    end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, count, count, len(table), start, 0)
    return bad_entries + bytes(bad_table) + entries + bytes(table) + end


def code_in_front(content, canary):
    return b"#!/bin/sh\n" + packed(parts_of(content))


def compressed(content, canary):
    return packed({**parts_of(content), "data/weights/weight_0": b"\0" * 2**24}, zipfile.ZIP_DEFLATED)


def overlapping(content, canary):
    """Entries that share their bytes, so that a small file unpacks to gigabytes."""
    archive = bytearray(
        packed({**parts_of(content), **{f"data/weights/weight_{i}": b"\0" * 4096 for i in range(10, 90)}})
    )
    start = struct.unpack("<L", archive[-6:-2])[0]
    at, first = start, None
    while archive[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack("<HHH", archive[at + 28 : at + 34])
        if bytes(archive[at + 46 : at + 46 + name]).endswith(b"weight_10"):
            first = struct.unpack("<L", archive[at + 42 : at + 46])[0]
        elif first is not None:
            archive[at + 42 : at + 46] = struct.pack("<L", first)
        archive[at + 20 : at + 28] = struct.pack("<LL", 10**6, 10**6)
        at += 46 + name + extra + comment
    return bytes(archive)


def from_file(graph, canary):
    node = graph["graph"]["nodes"][2]
    named = {"filename": {"as_string": str(canary)}, "shared": {"as_bool": True}, "size": {"as_int": 16}}
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [{"name": name, "arg": arg, "kind": 1} for name, arg in named.items()]


def memory_outside(graph, canary):
    """Read a million numbers beyond a batch, through a tensor that claims that size."""
    node = graph["graph"]["nodes"][2]
    source = next(entry for entry in node["inputs"] if "as_tensor" in entry["arg"])
    node["target"] = "torch.ops.aten._reshape_alias.default"
    sizes = {"size": {"as_ints": [10**6]}, "stride": {"as_ints": [1]}}
    node["inputs"] = [{**source, "name": "self"}, *({"name": key, "arg": arg, "kind": 1} for key, arg in sizes.items())]


def renamed(old, new):
    """Rename an input of the graph wherever it is used."""

    def change(model, canary):
        text = json.dumps(model).replace(json.dumps(old), json.dumps(new.format(canary=canary)))
        model.clear()
        model.update(json.loads(text))

    return with_json("models/model.json", change)


def source_in_a_buffer(parts, canary):
    name = f'x" + str(__import__("os").mkdir({str(canary)!r})) + "'
    for file in ("models/model.json", "data/weights/model_weights_config.json"):
        parts[file] = parts[file].replace(b'"1.running_mean"', json.dumps(f"1.{name}").encode())


def enumeration(graph, canary):
    signature = graph["module_call_graph"][0]["signature"]
    protocol, spec = json.loads(signature["in_spec"])
    spec["children_spec"][0]["context"] = json.dumps([{"__enum__": True, "fqn": "hostile_module:X", "name": "y"}])
    signature["in_spec"] = json.dumps([protocol, spec])


def size(text):
    def change(graph, canary):
        sizes = graph["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = text.format(canary=canary)

    return with_graph(change)


def opaque(parts, canary):
    parts["data/constants/opaque_obj_0"] = pickle.dumps(Marked(canary))
    config = json.loads(parts["data/constants/model_constants_config.json"])
    config["config"]["c"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
    parts["data/constants/model_constants_config.json"] = json.dumps(config).encode()


def hidden_opaque(parts, canary):
    """A pickle with the name of a tensor, at a path that begins like that of an opaque object."""
    parts["data/constants/tensor_0"] = pickle.dumps(Marked(canary))
    config = json.loads(parts["data/constants/model_constants_config.json"])
    path = "opaque_obj_0/../tensor_0"
    config["config"]["c"] = {"path_name": path, "is_param": False, "use_pickle": False, "tensor_meta": None}
    parts["data/constants/model_constants_config.json"] = json.dumps(config).encode()


def pickled_weight(config, canary):
    next(iter(config.values()))["use_pickle"] = True


def outside_weight(config, canary):
    next(iter(config.values()))["path_name"] = "../../../etc/passwd"


def endless_weight(config, canary):
    entry = next(iter(config.values()))
    entry["tensor_meta"]["sizes"] = [{"as_expr": {"expr_str": "9**9**9**9"}}]


def call(target):
    return with_graph(lambda graph, canary: graph["graph"]["nodes"][2].update(target=target))


def subgraph(graph, canary):
    graph["graph"]["nodes"][2]["inputs"][0]["arg"] = {"as_graph": {"name": "g", "graph": copy.deepcopy(graph["graph"])}}


def operator_as_argument(graph, canary):
    graph["graph"]["nodes"][2]["inputs"][0]["arg"] = {"as_operator": "torch.os.system"}


def custom_object(graph, canary):
    graph["graph"]["nodes"][2]["inputs"][0]["arg"] = {"as_custom_obj": {"name": "c", "class_fqn": "c"}}


def nested(model, canary):
    value = []
    for _ in range(900):
        value = [value]
    model["guards_code"] = value


ARCHIVES = {
    "two tables of contents": (two_tables, "more than one archive"),
    "bytes in front": (code_in_front, "more than one archive"),
    "compressed": (compressed, "compressed"),
    "overlapping parts": (overlapping, "overlap"),
    "pickled inputs": (
        with_parts(lambda parts, canary: parts.update({"data/sample_inputs/model.pt": pickled(canary)})),
        "pickled inputs",
    ),
    "pickled weight": (with_weights(pickled_weight), "weights are pickled"),
    "legacy weights": (
        with_parts(lambda parts, canary: parts.update({"data/weights/model.pt": pickled(canary)})),
        r"data/weights/model\.pt",
    ),
    "opaque object": (with_parts(opaque), "opaque_obj_0"),
    "hidden opaque object": (with_parts(hidden_opaque), "has no bytes"),
    "weight outside": (with_weights(outside_weight), "has no bytes"),
    "weight of endless size": (with_weights(endless_weight), "has no shape"),
    "library": (
        with_parts(lambda parts, canary: parts.update({"data/aotinductor/model/wrapper.so": b"\x7fELF"})),
        "which no student needs",
    ),
    "second model": (
        with_parts(lambda parts, canary: parts.update({"models/other.json": parts["models/model.json"]})),
        "which no student needs",
    ),
    "legacy archive": (
        lambda content, canary: packed({"x": b""}).replace(b"archive/x", b"version/x"),
        "no student",
    ),
    "file as a tensor": (with_graph(from_file), r"aten\.from_file"),
    "memory outside a tensor": (with_graph(memory_outside), r"aten\._reshape_alias"),
    "function of torch": (call("torch.os.mkdir"), r"torch\.os\.mkdir"),
    "save": (call("torch.ops.aten.save.default"), r"aten\.save"),
    "other namespace": (call("torch.ops.inductor.resize_storage_bytes_.default"), "inductor"),
    "higher-order operator": (call("torch.ops.higher_order.cond"), "higher_order"),
    "attribute getter": (call("_operator.attrgetter"), "attrgetter"),
    "extension": (call("#x:y"), "#x:y"),
    "subgraph": (with_graph(subgraph), "as_graph"),
    "operator as argument": (with_graph(operator_as_argument), "as_operator"),
    "custom object": (with_graph(custom_object), "as_custom_obj"),
    "code in the name of an input": (renamed("input", "x=__import__('os').mkdir('{canary}')"), "is not a name"),
    "code in the name of a node": (renamed("relu", "relu = __import__('os').mkdir('{canary}'); relu"), "is not a name"),
    "lines in the name of a node": (
        renamed("relu", "relu\n    import os; os.mkdir('{canary}')\n    x"),
        "is not a name",
    ),
    "module in the name of a node": (renamed("relu", "torch.load"), "is not a name"),
    "code in the name of a buffer": (with_parts(source_in_a_buffer), "is not the name of a tensor"),
    "code in the name of an argument": (
        with_graph(
            lambda graph, canary: graph["module_call_graph"][0]["signature"].update(
                forward_arg_names=[f"x=__import__('os').mkdir({str(canary)!r})"]
            )
        ),
        "is not a name",
    ),
    "module of an enumeration": (with_graph(enumeration), "not tuples, lists or dicts"),
    "code as a size": (size("__import__('os').mkdir({canary!r})"), "is not a size"),
    "method of a size": (size("Symbol('s0').func"), "is not a size"),
    "tower of powers": (size("9**9**9**9"), "is not a size"),
    "endless sum": (size("+".join(["s0"] * 10**5)), "is not a size"),
    "deep brackets": (size("(" * 900 + "s0" + ")" * 900), "is not a size"),
    "code as a guard": (
        with_json(
            "models/model.json",
            lambda model, canary: model.update(guards_code=[f"__import__('os').mkdir({str(canary)!r})"]),
        ),
        "contains code",
    ),
    "deep nesting": (with_json("models/model.json", nested), "contains code|RecursionError"),
    "endless counter": (
        with_json(
            "models/model.json",
            lambda model, canary: model["range_constraints"].update(
                {"u99999999999999": {"min_val": 0, "max_val": None}}
            ),
        ),
        "ranges",
    ),
    "another device": (
        with_graph(
            lambda graph, canary: graph["graph"]["tensor_values"]["input"].update(device={"type": "cuda", "index": 0})
        ),
        "runs on",
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_graph_is_refused(clean, canary, tmp_path, monkeypatch, name):
    attack, said = ARCHIVES[name]
    (tmp_path / "hostile_module.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "model.pt2"
    path.write_bytes(attack(clean[2], canary))
    try:
        with pytest.raises(ExportError, match=said) as error:
            load_program(path)(torch.zeros(2, *SHAPE))
        assert "\n" not in str(error.value)
        assert "model.pt2" in str(error.value)
    finally:
        assert not canary.exists()


def test_what_torch_wrote_and_what_we_wrote_load(clean, tmp_path):
    # So that each refusal is of what was changed.
    network, ours, torchs = clean
    for content in (ours, torchs, packed(parts_of(torchs))):
        (tmp_path / "model.pt2").write_bytes(content)
        x = torch.randn(3, *SHAPE)
        torch.testing.assert_close(load_program(tmp_path / "model.pt2")(x), network(x))


@pytest.fixture
def student(tmp_path, monkeypatch):
    """The folder of a student that anybody may load."""
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    space = load_space("resnet")
    architecture = space.smallest()
    network = space.build(architecture, input_shape=SHAPE, num_classes=3)
    save_student(tmp_path / "student", network, architecture, space, input_shape=SHAPE, num_classes=3)
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    return tmp_path / "student"


def names(builder, **keywords):
    """Return an attack that names a builder; ``{canary}`` in a keyword is the path of the canary."""

    def attack(folder, canary):
        values = {
            key: value.format(canary=canary) if isinstance(value, str) else value for key, value in keywords.items()
        }
        edit(folder, builder=builder, importable=True, keywords=values)

    return attack


def edit(folder, **changes):
    path = folder / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def module_beside(folder, canary):
    (folder.parent / "beside.py").write_text(f"import os\nos.mkdir({str(canary)!r})\ndef build(**_): pass\n")
    edit(folder, builder="beside:build")


def a_pipe(name):
    def attack(folder, canary):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return attack


def a_link(name):
    def attack(folder, canary):
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return attack


def endless_file(folder, canary):
    with (folder / "architecture.json").open("rb+") as stream:
        stream.truncate(2**33)  # sparse: takes no disk space


def graph_elsewhere(folder, canary):
    (folder.parent / "other.pt2").write_bytes(b"x")
    edit(folder, program="../other.pt2")


def a_pickle(folder, canary):
    (folder / "model.safetensors").write_bytes(pickled(canary))


def pickled_graph(folder, canary):
    (folder / "model.pt2").write_bytes(pickled(canary))
    edit(folder, importable=False, program="model.pt2")


COMMAND = "mkdir {canary}"
FOLDERS = {
    "os": (names("os:system", command=COMMAND), "not a builder"),
    "posix": (names("posix:system", command=COMMAND), "not a builder"),
    "module in torch": (names("torch:os.system", command=COMMAND), "trust=True"),
    "module in nas_distill": (names("nas_distill.utils.files:os.makedirs", name="{canary}"), "trust=True"),
    "module in a network's module": (names("nas_distill.models.resnet:torch.os.mkdir", path="{canary}"), "trust=True"),
    "import in a network's module": (names("nas_distill.models.resnet:nn.Linear", in_features=1), "trust=True"),
    "globals of a builder": (names("nas_distill.models.resnet:build.__globals__", x=1), "trust=True"),
    "function of nas_distill": (names("nas_distill.utils.files:write_text", path="{canary}", text=""), "trust=True"),
    "download": (names("torch.hub:load", repo_or_dir="{canary}", model="x", source="local"), "trust=True"),
    "unsafe yaml": (
        names("yaml:unsafe_load", stream="!!python/object/apply:os.mkdir ['{canary}']"),
        "trust=True",
    ),
    "numpy": (names("numpy:save", file="{canary}", arr=[1]), "trust=True"),
    "file of torch": (names("torch:from_file", filename="{canary}", shared=True, size=16), "trust=True"),
    "pickle of torch": (names("torch:load", f="{canary}", weights_only=False), "trust=True"),
    "class of torch": (names("torch.nn:Linear", in_features=1, out_features=1), "trust=True"),
    "installed package": (names("cloudpickle:loads", data="{canary}"), "trust=True"),
    "module beside": (module_beside, "trust=True"),
    "module that acts on import": (names("antigravity:geohash"), "not a builder|trust=True"),
    "teacher of a cut student": (
        names("nas_distill.pruning.build:build", teacher="torch:os.mkdir", arguments={"path": "{canary}"}, plan={}),
        "trust=True",
    ),
    "folder of a cut student's teacher": (
        names("nas_distill.pruning.build:build", teacher="beside:build", paths=["."], plan={}),
        "trust=True",
    ),
    "dotted module": (names("os.path:os.system", command=COMMAND), "not a builder"),
    "no reference": (names("torch.os.system('x')"), "not of the form"),
    "builder of another kind": (lambda folder, canary: edit(folder, builder=["os:system"]), "'builder' is a list"),
    "graph elsewhere": (graph_elsewhere, "'program' can only be"),
    "pickle as weights": (a_pickle, "not a safetensors file"),
    "pickle as a graph": (pickled_graph, "is not the graph of a student"),
    "pipe as a description": (a_pipe("architecture.json"), "not a regular file"),
    "pipe as weights": (a_pipe("model.safetensors"), "not a regular file"),
    "link as a description": (a_link("architecture.json"), "leads out"),
    "link as weights": (a_link("model.safetensors"), "leads out"),
    "endless description": (endless_file, "are allowed"),
    "deep description": (
        lambda folder, canary: (folder / "architecture.json").write_text("[" * 10**6),
        "cannot be read",
    ),
    "number without end": (
        lambda folder, canary: (folder / "architecture.json").write_text('{"format": ' + "9" * 10**5 + "}"),
        "cannot be read",
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_is_refused(student, canary, monkeypatch, name):
    attack, said = FOLDERS[name]
    monkeypatch.syspath_prepend(str(student.parent))  # as if the folder had been unpacked in the current directory
    before = set(sys.modules)
    attack(student, canary)
    try:
        with pytest.raises(ExportError, match=said) as error:
            load_student(student)
        assert "\n" not in str(error.value)
        assert str(student) in str(error.value)
        assert not {"beside", "antigravity"} & (set(sys.modules) - before)
    finally:
        assert not canary.exists()


def test_a_student_of_a_built_in_network_needs_no_trust(student):
    assert isinstance(load_student(student), nn.Module)


def test_a_graph_replaces_a_builder_that_is_not_trusted(student, canary, clean):
    (student / "model.pt2").write_bytes(clean[1])
    edit(student, program="model.pt2")
    module_beside(student, canary)
    x = torch.randn(2, *SHAPE)
    with pytest.warns(UserWarning, match=r"'beside:build' was not imported.*trust=True"):
        torch.testing.assert_close(load_student(student)(x), clean[0](x))
    assert not canary.exists()


def test_trust_imports_the_builder_that_the_folder_names(student, canary, monkeypatch):
    monkeypatch.syspath_prepend(str(student.parent))
    module_beside(student, canary)
    with pytest.raises(ExportError, match="returned a NoneType"):
        load_student(student, trust=True)
    assert canary.exists()
    del sys.modules["beside"]


def test_trust_follows_links(student, canary):
    a_link("model.safetensors")(student, canary)
    assert isinstance(load_student(student, trust=True), nn.Module)


UNPICKLERS = {
    "nas_distill/engine/backends/tune_state.py",
    "nas_distill/engine/backends/worker.py",
    "nas_distill/engine/backends/inline.py",
    "nas_distill/engine/child.py",
    "nas_distill/engine/fork_server.py",
}  # data exchanged with the search's own workers


def test_the_package_reads_no_untrusted_pickle():
    root = Path(nas_distill.__file__).parents[1]
    for path in sorted((root / "nas_distill").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if re.search(r"\b(load\w*|eval|exec)\(", text) else ():
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            options = {entry.arg: ast.unparse(entry.value) for entry in node.keywords}
            where = f"{path}:{node.lineno}"
            if called == "torch.load":
                assert options.get("weights_only") == "True", where
            if called.endswith(("np.load", "numpy.load")):
                assert options.get("allow_pickle", "False") == "False", where
            if called == "yaml.load":
                assert ast.unparse(node.args[1]) == "_Loader", where
            if called in ("pickle.load", "pickle.loads", "cloudpickle.loads", "joblib.load"):
                assert str(path.relative_to(root)) in UNPICKLERS, where
            assert called not in ("eval", "exec", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load"), where
