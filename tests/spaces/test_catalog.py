from pathlib import Path

import pytest
import yaml

from nas_distill.spaces import SearchSpace, load_space, names
from nas_distill.spaces.catalog import shipped_folder
from nas_distill.utils.errors import SpaceError

MINE = "builder: package.module:function\nparameters:\n  width: [8, 16]\n"


def test_names_of_shipped_spaces():
    assert names() == ["mbconv", "resnet"]


@pytest.mark.parametrize("name", ["mbconv", "resnet"])
def test_a_shipped_space_is_large_and_counted_exactly(name):
    space = load_space(name)
    assert space.name == name
    assert space.about
    assert space.size().exact
    assert space.size().count >= 10**6


@pytest.mark.parametrize("name", ["mbconv", "resnet"])
def test_a_shipped_space_keeps_channels_at_multiples_of_eight(name):
    space = load_space(name)
    channels = [row.name for row in space.describe() if row.name.rpartition(".")[2] in ("stem", "width", "head")]
    assert len(channels) >= 4
    seen = {}
    for pick in (0, -1):
        space.draw(lambda name, domain, pick=pick: seen.setdefault(name, domain).values[pick])
    for flat in channels:
        assert all(value % 8 == 0 for value in seen[flat].values)


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(SpaceError, match="unknown search space 'mbcon'; did you mean 'mbconv'"):
        load_space("mbcon")


def test_a_file_is_found_next_to_the_search_file_and_in_the_current_folder(tmp_path, monkeypatch):
    folder = tmp_path / "searches"
    folder.mkdir()
    (folder / "mine.yaml").write_text(MINE)
    assert load_space("mine.yaml", paths=[folder]).name == "mine"
    assert load_space(folder / "mine.yaml").name == "mine"
    monkeypatch.chdir(tmp_path)
    assert load_space("searches/mine.yaml").name == "mine"


def test_a_builder_is_found_next_to_its_space_file(tmp_path):
    (tmp_path / "builder_beside_space.py").write_text(
        "import torch\ndef build(width): return torch.nn.Linear(width, 1)\n"
    )
    (tmp_path / "mine.yaml").write_text("builder: builder_beside_space:build\nparameters: {width: [8]}\n")
    space = load_space(tmp_path / "mine.yaml")
    assert space.build(space.smallest(), input_shape=(1, 8, 8), num_classes=2).in_features == 8


def test_mappings_and_spaces_are_accepted():
    space = load_space(yaml.safe_load(MINE))
    assert isinstance(space, SearchSpace)
    assert load_space(space) is space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("builder: [", "bad.yaml is not valid YAML at line 1"),
        ("", "bad.yaml: a space must be a mapping"),
        ("- 1", "bad.yaml: a space must be a mapping"),
        ("builder: a.b:c\nparameters: {width: {chioce: [8]}}", "bad.yaml: parameter 'width': unknown key 'chioce'"),
        ("builder: a.b:c\nparamaters: {width: [8]}", "bad.yaml: unknown key 'paramaters'; did you mean 'parameters'"),
    ],
)
def test_an_invalid_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SpaceError, match=message) as caught:
        load_space(path)
    assert str(tmp_path) in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(SpaceError, match=r"nowhere\.yaml does not exist"):
        load_space(tmp_path / "nowhere.yaml")
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match="cannot be read"):
        load_space(path)


def test_the_shipped_folder_has_only_space_files():
    assert {path.suffix for path in Path(shipped_folder()).iterdir()} == {".yaml"}


def test_a_duplicate_key_is_refused(tmp_path):
    """PyYAML would keep only the last value of a duplicate key."""
    file = tmp_path / "mine.yaml"
    file.write_text("builder: package.module:function\nparameters:\n  width: [8, 16]\n  width: [32]\n")
    with pytest.raises(SpaceError, match=r"space file .*mine\.yaml .* line 4, .*'width' is given twice"):
        load_space(file)
