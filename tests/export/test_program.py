import zipfile

import pytest
import torch
from torch import nn

from nas_distill.export.archive import is_size
from nas_distill.export.graph import load_program, save_program
from nas_distill.utils.errors import ExportError


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


def test_a_rewritten_archive_still_loads(saved):
    # Shows that the refusals below are caused by the changes, not by the rewriting.
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


def test_a_graph_contains_no_paths_of_this_machine(saved):
    _, path = saved
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert b"test_program" not in content


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
    "text",
    [
        "1",
        "s77",
        "2*s0 + 1",
        "Symbol('s77', positive=True, integer=True)",
        "FloorDiv(s0 - 1, 2) + 1",
        "-u3**2",
        "s0 < 9",
    ],
)
def test_arithmetic_on_symbols_is_a_size(text):
    assert is_size(text)


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
        "s0**s1",
        "2**99",
        "10**8**8",
        "Symbol('s1', **s2)",
        "Symbol",
        "Mul(*s0)",
        "Integer('s0')",
        str(2**63),
        "1.5",
    ],
)
def test_other_expressions_are_not_sizes(text):
    assert not is_size(text)
