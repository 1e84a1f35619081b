import pickle
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from nas_distill.data import Dataset, Views, load_dataset
from nas_distill.data.loaders import as_dataset
from nas_distill.utils.errors import ConfigError, DataError

X = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
Y = np.arange(20) % 4


class Pairs(torch.utils.data.Dataset):
    """A map-style dataset like those of users."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        return self.items[place]


def pairs(x=X, y=Y):
    return Pairs([(torch.from_numpy(sample), int(label)) for sample, label in zip(x, y)])


# Types of sources.


def test_a_map_style_dataset_becomes_arrays():
    data = as_dataset(pairs(), name="mine", val=0.25)
    expected = Dataset.from_tensors(X, Y, val=0.25)
    assert data.fingerprint == expected.fingerprint
    assert data.name == "mine"


def test_tensors_arrays_and_lists_are_accepted():
    data = as_dataset(Pairs([([float(label), 0.0], torch.tensor([label])) for label in Y]))
    assert data.input_shape == (2,)
    assert data.num_classes == 4


def test_splits_of_a_dict_are_kept():
    parts = {"train": pairs(), "val": (torch.from_numpy(X[:8]), Y[:8]), "test": pairs(X[:4], Y[:4])}
    data = as_dataset(parts)
    assert [len(data.split(name)) for name in data.splits] == [20, 8, 4]
    assert as_dataset({"train": pairs()}, val=0.5).splits == ("train", "val")


def test_a_pair_and_a_mapping_of_arrays_become_datasets():
    assert len(as_dataset((X, Y), val=0.2).val) == 4
    assert as_dataset((torch.zeros(8, 2, requires_grad=True), torch.arange(8) % 2)).input_shape == (2,)
    data = as_dataset({"x_train": X, "y_train": Y, "x_val": X[:4], "y_val": Y[:4], "x_test": X[:8], "y_test": Y[:8]})
    assert [len(data.split(name)) for name in data.splits] == [20, 4, 8]
    assert len(as_dataset({"x": X, "y": Y}, val=0.5).train) == 10


def test_only_views_of_a_dataset_are_replaced():
    data = Dataset.from_tensors(X, Y)
    assert as_dataset(data) is data
    views = Views(count=2, pad=1)
    assert as_dataset(data, views=views).views == views
    assert as_dataset(data, views=views).fingerprint == data.fingerprint


def test_pillow_images_become_channels_first():
    grey = [(Image.fromarray(x[0]), int(y)) for x, y in zip(X, Y)]
    assert np.array_equal(as_dataset(Pairs(grey)).train.x, as_dataset(pairs()).train.x)
    colours = np.random.default_rng(1).integers(0, 256, (8, 5, 6, 3), dtype=np.uint8)
    data = as_dataset({"train": Pairs([(Image.fromarray(x), i % 2) for i, x in enumerate(colours)])}, val=0.25)
    assert data.input_shape == (3, 5, 6)
    assert any(np.array_equal(data.train.x[0], x.transpose(2, 0, 1)) for x in colours)


class Raises(Pairs):
    def __getitem__(self, place):
        if place == 3:
            raise OSError("disk\nfailed.")
        return super().__getitem__(place)


WRONG = [
    (None, "Data 'mine' is a NoneType; it must be a Dataset"),
    (5, "Data 'mine' is a int; it must be a Dataset"),
    ("text", "Data 'mine' is a str; it must be a Dataset"),
    (iter([]), "is a list_iterator"),
    (Pairs([]), "Data 'mine' is empty"),
    (Pairs([(X[0], 0), (X[0], 1, 2)]), "item 1 is not"),
    (Pairs([(X[0], 0), 7]), "item 1 is not"),
    (
        Pairs([{"image": X[0], "label": 0}]),
        r"item 0 is not \(sample, label\) \(TypeError: it is a dict with keys image",
    ),
    (Pairs([(X[0], 0), (X[0, :, :2], 1)]), r"item 1 is not .* it is uint8 of shape \(1, 2, 4\), and the first is"),
    (Pairs([(X[0], 0), (X[0] / 255, 1)]), "item 1 is not .* it is float64"),
    (Pairs([(X[0], [[0, 1]])]), "item 0 is not .* its label has shape"),
    (Pairs([(X[0], 0.5), (X[1], 1)]), "labels are float64; they must be whole"),
    (Pairs([(X[0], "shoe"), (X[1], "hat")]), "labels are <U4; they must be whole"),
    (Raises([(X[0], 0)] * 6), r"item 3 is not .*\(OSError: disk failed\)"),
    ({"train": pairs(), "vaL": pairs()}, "unknown split 'vaL'; did you mean 'val'"),
    ({"train": pairs(), "val": 0.5}, "val split is a float"),
    ({"train": pairs(), "test": Pairs([])}, "test split is empty"),
    ({}, "has no array 'x'; it has none"),
    ({"x": X}, "has no array 'y'; it has x"),
    ({"x_train": X, "y": Y}, "has no array 'y_train'; it has x_train, y"),
    ({"x": X, "y": Y, "x_val": X}, "has no array 'y_val'; give both"),
    ((X, Y[:3]), r"y has shape \(3,\)"),
    (((X, Y), (X, Y)), "x cannot be read as an array"),
]


@pytest.mark.parametrize(("source", "message"), WRONG, ids=[message for _, message in WRONG])
def test_an_invalid_source_is_refused(source, message):
    with pytest.raises(DataError, match=message) as caught:
        as_dataset(source, name="mine")
    assert "\n" not in str(caught.value)


# By name.


@pytest.mark.parametrize("name", ["fashion", "fashon-mnist", "digit", "mnist", "my.npy", "a/b.csv", ""])
def test_an_unknown_name_lists_known_ones(name):
    with pytest.raises(
        DataError, match=f"^Data '{name}' is not a .npz file.*(did you mean|known: digits, fashion-mnist)"
    ):
        load_dataset(name)


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        load_dataset("fashion_mnist")


def test_options_of_other_sources_are_refused():
    with pytest.raises(DataError, match="'root' belongs to fashion-mnist"):
        load_dataset("digits", root="somewhere")
    with pytest.raises(DataError, match=r"'arguments' are for a function package.module:function"):
        load_dataset("digits", arguments={"size": 3})


@pytest.fixture
def user(monkeypatch):
    """A module of the user."""
    module = types.ModuleType("user_data")
    monkeypatch.setitem(sys.modules, "user_data", module)
    return module


def test_a_function_is_called_with_its_arguments(user):
    user.make = lambda count: (X[:count], Y[:count])
    data = load_dataset("user_data:make", arguments={"count": 10}, val=0.2, views=Views(count=2, pad=1))
    assert (len(data.train), len(data.val)) == (8, 2)
    assert data.views == Views(count=2, pad=1)
    assert data.name == "user_data:make"


def fail():
    raise RuntimeError("no\nluck.")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail, r"Data function user_data:make failed \(RuntimeError: no luck\)\.$"),
        (lambda size: None, "failed .*missing 1 required positional argument: 'size'"),
        (lambda: None, "Data 'user_data:make' is a NoneType"),
        (lambda: (X, Y - 1), "labels run from -1 to 2"),
        (42, "failed .*not callable"),
    ],
)
def test_a_function_that_does_not_return_data_is_refused(user, function, message):
    user.make = function
    with pytest.raises(DataError, match=message):
        load_dataset("user_data:make")


def test_a_missing_function_is_refused(user):
    user.load = lambda: (X, Y)
    with pytest.raises(ConfigError, match="data: module 'user_data' has no 'laod'; did you mean 'load'"):
        load_dataset("user_data:laod")


# From a file.


def test_the_folder_of_the_search_file_is_searched_first(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder, count in ((here, 8), (beside, 20)):
        folder.mkdir()
        np.savez(folder / "mine.npz", x=X[:count], y=Y[:count])
    monkeypatch.chdir(here)
    assert len(load_dataset("mine.npz", paths=[beside], val=0.25).train) == 15
    assert len(load_dataset("mine.npz", paths=[], val=0.25).train) == 6
    assert len(load_dataset(str(here / "mine.npz"), paths=[beside], val=0.25).train) == 6


def test_a_missing_file_is_reported_with_the_paths_searched(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz does not exist \(searched: .*none\.npz, none\.npz\)"):
        load_dataset("none.npz", paths=[tmp_path])


class Payload:
    def __reduce__(self):
        return (exec, ("open('was_run', 'w')",))


def write_damaged(path, kind):
    np.savez_compressed(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "empty":
        content = b""
    elif kind == "text":
        content = b"not an archive"
    elif kind == "flipped":
        middle = content.index(b"x.npy") + 60
        content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    elif kind == "pickle":
        content = pickle.dumps(Payload())
    elif kind == "object array":
        np.savez(path, x=np.array([Payload()], dtype=object), y=Y)
        return
    elif kind == "npy":
        with path.open("wb") as stream:
            np.save(stream, X)
        return
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "flipped", "pickle", "object array", "npy"])
def test_a_file_with_damage_or_code_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    write_damaged(tmp_path / "mine.npz", kind)
    with pytest.raises(DataError, match=r"mine\.npz is not a valid \.npz file of plain arrays"):
        load_dataset("mine.npz")
    assert not (tmp_path / "was_run").exists()


def test_a_file_with_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", images=X, labels=Y)
    with pytest.raises(DataError, match=r"Data 'mine\.npz' has no array 'x'; it has images, labels"):
        load_dataset("mine.npz", paths=[tmp_path])
