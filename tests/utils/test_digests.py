import hashlib

import pytest
import torch
from torch import nn

from nas_distill.utils.checkpoints import file_digest, json_digest, module_digest, text_digest


def test_digests_do_not_depend_on_the_order_of_keys():
    assert json_digest({"b": [1, 2.5], "a": None}) == json_digest({"a": None, "b": (1, 2.5)})
    assert json_digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    assert json_digest({"a": 1}) != json_digest({"a": "1"}) != json_digest({"a": 1.0})
    assert json_digest([1], 8) == json_digest([1])[:8]
    with pytest.raises(TypeError):
        json_digest({"a": object()})


def test_a_text_and_its_file_have_the_same_digest(tmp_path):
    (tmp_path / "file").write_text("überall", encoding="utf-8")
    assert file_digest(tmp_path / "file") == text_digest("überall")
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "missing")


def test_the_digest_of_a_network_covers_structure_weights_and_types():
    def network(activation=nn.ReLU, bias=0.0, dtype=torch.float32):
        layer = nn.Linear(2, 2)
        nn.init.constant_(layer.weight, 1.0)
        nn.init.constant_(layer.bias, bias)
        return nn.Sequential(layer, activation()).to(dtype)

    same = {module_digest(network()) for _ in range(2)}
    others = {
        module_digest(network(**change))
        for change in ({"activation": nn.GELU}, {"bias": 1e-7}, {"dtype": torch.float64})
    }
    assert (len(same), len(others)) == (1, 3)
    assert same.isdisjoint(others)
