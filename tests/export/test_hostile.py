"""Student folders of a stranger that try to run code, write a file or hang: each is refused with an error."""

import copy
import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from torch import nn

from nas_distill.common.errors import ExportError
from nas_distill.export.program import _traced, load_program, save_program

SHAPE = (1, 8, 8)


class Marked:
    """Unpickling it makes the canary."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The bytes of a graph as torch itself writes it."""
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
    """Two archives in one file: Python's zipfile finds the clean table of contents, torch's reader the other one."""
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
    place = len(bad_entries)
    shift = len(entries) + len(table)  # what zipfile adds to each offset, from where the last table is and claims to be
    at = 0
    while at < len(table):
        name, extra, comment = struct.unpack("<HHH", table[at + 28 : at + 34])
        (offset,) = struct.unpack("<L", table[at + 42 : at + 46])
        table[at + 42 : at + 46] = struct.pack("<L", place + len(bad_table) + offset - shift)
        at += 46 + name + extra + comment
    end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, count, count, len(table), place, 0)
    return bad_entries + bytes(bad_table) + entries + bytes(table) + end


def code_in_front(content, canary):
    return b"#!/bin/sh\n" + packed(parts_of(content))


def compressed(content, canary):
    return packed({**parts_of(content), "data/weights/weight_0": b"\0" * 2**24}, zipfile.ZIP_DEFLATED)


def overlapping(content, canary):
    """Entries that share their bytes, so that a small file holds gigabytes."""
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


def renamed(old, new):
    """Give an input of the graph another name wherever it is used."""

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
    """The pickle has the name of a tensor, and the path that leads to it begins like that of an opaque object."""
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
    "old kind of weights": (
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
    "old kind of archive": (
        lambda content, canary: packed({"x": b""}).replace(b"archive/x", b"version/x"),
        "no student",
    ),
    "file as a tensor": (with_graph(from_file), r"aten\.from_file"),
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
    "module of an enumeration": (with_graph(enumeration), "of a kind of their own"),
    "code as a size": (size("__import__('os').mkdir({canary!r})"), "is no size"),
    "method of a size": (size("Symbol('s0').func"), "is no size"),
    "tower of powers": (size("9**9**9**9"), "is no size"),
    "endless sum": (size("+".join(["s0"] * 10**5)), "is no size"),
    "deep brackets": (size("(" * 900 + "s0" + ")" * 900), "is no size"),
    "code as a guard": (
        with_json(
            "models/model.json",
            lambda model, canary: model.update(guards_code=[f"__import__('os').mkdir({str(canary)!r})"]),
        ),
        "holds code",
    ),
    "deep nesting": (with_json("models/model.json", nested), "holds code|RecursionError"),
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
