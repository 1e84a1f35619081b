import os
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nas_distill.teacher.weights import load_weights, read_weights, save_weights
from nas_distill.utils.errors import TeacherError


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def test_safetensors_and_pickled_state_dicts_round_trip(tmp_path, make_module):
    module = make_module()
    state = module.state_dict()
    save_weights(module, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save(OrderedDict(state), tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "d.ckpt")
    for path in sorted(tmp_path.iterdir()):
        assert equal(read_weights(path), state), path
        other = make_module(seed=1)
        assert not equal(other.state_dict(), state)
        load_weights(other, read_weights(path), str(path))
        assert equal(other.state_dict(), state)


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    def tied():
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        module[1].weight = module[0].weight
        return module

    module, other = tied(), tied()
    save_weights(module, tmp_path / "a.safetensors")
    load_weights(other, read_weights(tmp_path / "a.safetensors"), "a")
    assert other[1].weight is other[0].weight
    assert torch.equal(other[0].weight, module[0].weight)


def test_saved_weights_are_contiguous_copies(tmp_path):
    module = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    save_weights(module, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors")["weight"].is_contiguous()
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


class Payload:
    """Object of a malicious file: unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["plain pickle", "torch", "torch legacy", "in a state dict"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pkl", "weights"])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, how, name):
    marker, path = tmp_path / "was_run", tmp_path / name
    payload = Payload(f"touch {marker}")
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    elif how == "torch":
        torch.save(payload, path)
    elif how == "torch legacy":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"a": torch.zeros(2), "b": payload}, path)
    with pytest.raises(TeacherError, match=f"{name} .*could run code"):
        read_weights(path)
    assert not marker.exists()
    # The payload works.
    os.system(f"touch {marker}")
    assert marker.exists()


def test_a_pickled_module_is_refused(tmp_path, make_module):
    torch.save(make_module(), tmp_path / "whole.pt")
    with pytest.raises(TeacherError, match=r"more than tensors.*model\.state_dict\(\)"):
        read_weights(tmp_path / "whole.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "folder"])
def test_a_damaged_file_gives_one_sentence(tmp_path, make_module, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(make_module().state_dict(), path)
    else:
        save_weights(make_module(), path)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not weights"}[damage])
    with pytest.raises(TeacherError, match=f"^Weights .*weights{suffix}") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "a list, not a state dict"),
        (torch.zeros(2), "a Tensor, not a state dict"),
        ({"model": {"a": torch.zeros(2)}, "epoch": 3}, "a dict whose 'model' is a dict, not a state dict"),
        ({"a": torch.zeros(2), "lr": 0.1}, "a dict whose 'lr' is a float"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(TeacherError, match=message):
        read_weights(tmp_path / "a.pt")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TeacherError, match=r"none\.pt do not exist\.$"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("1.weight"), "the file has no '1.weight' (1 missing, 0 unexpected)"),
        (
            lambda state: state.update({"9.x": torch.zeros(1)}),
            "the file has '9.x', which the module lacks (0 missing",
        ),
        (
            lambda state: state.update({f"module.{key}": state.pop(key) for key in list(state)}),
            "the file has no '1.bias' (9 missing, 9 unexpected)",
        ),
        (lambda state: state.update({"1.bias": torch.zeros(9)}), "'1.bias' is (9,) in the file and (8,) in the module"),
    ],
)
def test_weights_of_another_module_are_refused_with_the_first_difference(make_module, change, message):
    state = dict(make_module(seed=1).state_dict())
    change(state)
    module = make_module()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(TeacherError) as caught:
        load_weights(module, state, "w.pt")
    assert str(caught.value).startswith("Weights w.pt ")
    assert message in str(caught.value)
    assert equal(dict(module.state_dict()), before)


def test_an_error_in_a_modules_own_loading_gives_one_sentence(tmp_path):
    class Own(nn.Linear):
        def _load_from_state_dict(self, *arguments, **options):
            raise KeyError("version\n2")

    save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(TeacherError, match=r"^Weights a .*KeyError"):
        load_weights(Own(2, 2), read_weights(tmp_path / "a.safetensors"), "a")


def test_weights_are_loaded_into_lazy_modules():
    lazy = nn.LazyLinear(3)
    load_weights(lazy, nn.Linear(5, 3).state_dict(), "w")
    assert lazy.weight.shape == (3, 5)
