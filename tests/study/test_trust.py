"""Runs of other users: readable, but code and files that they name are loaded only with trust."""

import os
import shutil
import sys
from contextlib import suppress

import pytest
import torch
import yaml
from rich.text import Text
from torch import nn

import nas_distill as nd
from nas_distill.cli.output import print_table
from nas_distill.export.graph import StudentGraph
from nas_distill.runs import journal
from nas_distill.runs.folder import RunFolder
from nas_distill.utils.errors import RunError, TrustError

BUILDERS = """
from nas_distill.models.resnet import build as resnet

def build(**keywords):
    return resnet(**keywords)
"""

PLAIN = """
from torch import nn

def build(width, input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))
"""


@pytest.fixture
def stranger(tmp_path, finished_run, monkeypatch):
    """A copied run, as if another user had sent it; the module ``beside`` writes a canary when it is imported."""
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    run = tmp_path / "sent"
    shutil.copytree(finished_run, run)
    (tmp_path / "beside.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\nbuild = load = print\n")
    monkeypatch.chdir(tmp_path)
    yield run
    assert not (tmp_path / "canary").exists()
    assert "beside" not in sys.modules


def edit(run, **changes):
    content = yaml.safe_load((run / "search.yaml").read_text())
    for key, value in changes.items():
        known = content[key]
        content[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    (run / "search.yaml").write_text(yaml.safe_dump(content))


SHIPPED = {"teacher": {"name": "fashion-resnet", "store": None}, "data": {"name": "fashion-mnist"}}
RESNET = "nas_distill.models.resnet:build"
SPACE = {"parameters": {"width": [1, 2]}}
HOSTILE = {
    "teacher's folder": ({}, "teacher"),
    "store": ({**SHIPPED, "teacher": {"name": "fashion-resnet", "store": "/tmp/elsewhere"}}, r"teacher\.store"),
    "data": ({**SHIPPED, "data": {"name": "beside:load"}}, "beside:load"),
    "data of the standard library": (
        {**SHIPPED, "data": {"name": "os:mkdir", "arguments": {"path": "canary"}}},
        "os:mkdir",
    ),
    "views": ({**SHIPPED, "data": {"name": "fashion-mnist", "views": {"function": "beside:load"}}}, "beside:load"),
    "file of data": ({**SHIPPED, "data": {"name": "../x.npz"}}, r"data\.name"),
    "folder of data": ({**SHIPPED, "data": {"name": "fashion-mnist", "root": "/etc"}}, r"data\.root"),
    "builder of the teacher": (
        {**SHIPPED, "teacher": {"name": None, "builder": "beside:build", "store": None}},
        "beside:build",
    ),
    "weights of the teacher": (
        {**SHIPPED, "teacher": {"name": None, "builder": RESNET, "weights": "/x", "store": None}},
        r"teacher\.weights",
    ),
    "another teacher": (
        {**SHIPPED, "teacher": {"name": "fashion-resnet", "store": None, "others": [{"name": "../x"}]}},
        r"teacher\.name",
    ),
    "builder": ({**SHIPPED, "space": {"builder": "beside:build", **SPACE}}, "beside:build"),
    "attribute as a builder": (
        {**SHIPPED, "space": {"builder": "nas_distill.utils.files:os.mkdir", **SPACE}},
        r"os\.mkdir",
    ),
    "file of a space": ({**SHIPPED, "space": "../space.yaml"}, "space"),
    "loss": ({**SHIPPED, "space": "resnet", "score": {"loss": [{"name": "beside:loss"}]}}, "beside:loss"),
    "cost": (
        {**SHIPPED, "space": "resnet", "search": {"costs": ["flops", {"name": "beside:load", "objective": False}]}},
        "beside:load",
    ),
    "runtime": ({**SHIPPED, "space": "resnet", "latency": {"runtime": "beside:load"}}, "beside:load"),
    "library": ({**SHIPPED, "blockwise": {"library": "/tmp/elsewhere"}}, r"blockwise\.library"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_code_and_files_of_another_users_run_are_not_loaded(stranger, name):
    changes, said = HOSTILE[name]
    edit(stranger, **changes)
    run = nd.open_run(stranger)
    assert len(run.front()) > 0  # looking at it is safe
    with pytest.raises(TrustError, match=said) as error:
        _ = run.problem
    assert "\n" not in str(error.value)
    assert "trust" in str(error.value)


def test_the_sampler_of_another_users_run_is_never_loaded(stranger, cli):
    edit(stranger, **SHIPPED, space="resnet", search={"sampler": {"name": "beside:load", "option": 3}})
    run = nd.open_run(stranger)
    assert len(run.front()) > 0
    with suppress(RunError):  # its data are others
        _ = run.problem
    for command in ("status", "front", "evaluate"):
        assert cli(command, stranger).code in (0, 2)
    # The fixture sees that nothing was imported.


@pytest.mark.parametrize("name", ["study.journal", "search.yaml", "card.md", "students"])
def test_a_link_out_of_another_users_run_is_refused(stranger, tmp_path, name, cli):
    (stranger / name).rename(tmp_path / "elsewhere")
    (stranger / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises((TrustError, RunError), match="leads out"):
        nd.open_run(stranger)
    assert cli("front", stranger).code == 2


@pytest.mark.parametrize("name", ["study.journal", "search.yaml"])
def test_a_pipe_in_another_users_run_does_not_block(stranger, name, cli):
    (stranger / name).unlink()
    os.mkfifo(stranger / name)
    answer = cli("front", stranger)
    assert answer.code == 2
    assert "not a regular file" in answer.err


def test_control_characters_of_another_users_run_are_not_printed(stranger, cli, capsys):
    """Escape sequences can set titles, fill the clipboard or hide text."""
    (stranger / "card.md").write_text("a card\x1b]0;title\x07\n")
    assert cli("card", stranger).out == "a card\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}\n"
    (stranger / "search.yaml").write_text('"sear\\ech": 1\n')
    answer = cli("front", stranger)
    assert answer.code == 2
    assert "sear\N{REPLACEMENT CHARACTER}ch" in answer.err
    print_table(Text("a cell\x1b[31m\x9b31m"))
    assert capsys.readouterr().out.strip() == "a cell\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}31m"


def test_the_command_line_explains_trust_and_has_an_option(stranger, cli):
    answer = cli("evaluate", stranger)
    assert answer.code == 2
    assert "--trust" in answer.err
    assert "Traceback" not in answer.err
    assert cli("evaluate", stranger, "--trust", "--json").code == 0
    assert cli("evaluate", stranger, "--json").code == 0  # noted, until what it names changes
    edit(stranger, seed=7)
    assert cli("evaluate", stranger).code == 2


def test_the_users_own_run_needs_no_trust(finished_run, cli):
    assert cli("evaluate", finished_run, "--json").code == 0


def test_a_builder_next_to_the_search_file_needs_no_trust(search_file, cli, tmp_path, no_export, monkeypatch):
    (tmp_path / "own_builders.py").write_text(BUILDERS)
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    space = {
        "builder": "own_builders:build",
        "parameters": {"stem": [8], "stages": {"each": [{"depth": [1], "width": [8, 16], "block": ["basic"]}]}},
    }
    file = search_file("own.yaml", space=space, search={"trials": 2, "seeds": 2}, final={"baseline": False})
    assert cli("search", file, "--quiet").code == 0
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    run = nd.open_run(file.with_suffix(""))
    assert run.best().student().module is not None
    sys.modules.pop("own_builders")


def test_an_own_run_started_from_python_loads_its_own_builder(tmp_path, no_export, monkeypatch):
    """Without the data, which only that program has; the student is a module that can be trained, not a graph."""
    (tmp_path / "plain_builders.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    nd.search(
        teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
        data=(torch.rand(80, 1, 8, 8), torch.arange(80) % 4),
        builder="plain_builders:build",
        space={"width": [2, 4]},
        folder=tmp_path / "run",
        **{"trials": 2, "seeds": 0, "backend": "inline", "quiet": True},
        score={"epochs": 1, "rungs": [1.0]},
        final={"epochs": 1, "count": 1, "baseline": False},
        latency={"calibrate": 0},
    )
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    opened = nd.open_run(tmp_path / "run")
    assert opened.problem_if_given() is None
    assert not isinstance(opened.student().module, StudentGraph)
    sys.modules.pop("plain_builders")


def test_a_key_in_a_journal_is_not_a_path(tmp_path):
    for key in ("../x", "/etc", "..", ".", "", "a/b", "a\0b"):
        with pytest.raises(RunError, match="is not the name of a folder"):
            RunFolder(tmp_path).student(key)
        with pytest.raises(RunError, match="is not the name of a folder"):
            RunFolder(tmp_path).checkpoint(key)


def test_built_in_parts_need_no_trust(stranger):
    edit(stranger, **SHIPPED, space="resnet")
    with pytest.raises(RunError, match="was searched with another"):  # it is loaded, and found to differ
        _ = nd.open_run(stranger).problem


def test_trust_is_required_again_where_it_cannot_be_recorded(stranger, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert nd.open_run(stranger, trust=True).problem is not None
    with pytest.raises(TrustError):
        _ = nd.open_run(stranger).problem


def test_the_task_of_another_users_run_is_not_loaded(stranger, cli, monkeypatch):
    known = journal.metadata_of
    monkeypatch.setattr(
        "nas_distill.study.stored.metadata_of",
        lambda *of: known(*of).model_copy(update={"task": "beside:load"}),
    )
    run = nd.open_run(stranger)
    for look in (lambda: run.task, run.report):
        with pytest.raises(TrustError, match="beside:load"):
            look()
    answer = cli("front", stranger)
    assert answer.code == 2
    assert "--trust" in answer.err
