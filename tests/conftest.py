"""A small real search for the tests that look at the package as its user does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

# On a busy machine drawing an example may take seconds; no test is judged by the time that it takes.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

TEACHER = {
    "stem": 8,
    "stages": [{"depth": 1, "width": 16, "block": "basic"}, {"depth": 1, "width": 32, "block": "basic"}],
}
SMALL: dict[str, Any] = {
    "data": "digits",
    "teacher": {"name": "teacher"},
    "space": {
        "builder": "nas_distill.models.resnet:build",
        "parameters": {
            "stem": [8],
            "stages": {
                "each": [
                    {"depth": [1, 2], "width": [8, 16], "block": ["basic"]},
                    {"depth": [1], "width": [8, 16, 24], "block": ["basic"]},
                ]
            },
        },
    },
    "budget": {"flops": "60%"},
    "search": {"trials": 4, "backend": "inline", "seeds": 3, "sampler": "random"},
    "score": {"epochs": 1, "batch_size": 32},
    "final": {"epochs": 1, "count": 1, "batch_size": 32},
    "latency": {"calibrate": 0, "repeats": 5},
}


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_in_process(*arguments: str | Path) -> Answer:
    from nas_distill.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps notes of runs that tests make away from the user's own, in this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def cli() -> Callable[..., Answer]:
    """Runs a command of nas-distill in this process."""
    return run_in_process


@pytest.fixture(scope="session")
def teacher_arguments() -> dict[str, Any]:
    """What the small teacher is built with."""
    return TEACHER


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small teacher of the digits, trained once."""
    from nas_distill.config import TeachFile
    from nas_distill.data import load_dataset
    from nas_distill.distill.teach import teach

    output = tmp_path_factory.mktemp("teacher") / "teacher"
    content = {
        "data": "digits",
        "builder": "nas_distill.models.resnet:build",
        "arguments": TEACHER,
        "training": {"epochs": 4, "batch_size": 64},
        "output": str(output),
    }
    teach(TeachFile.model_validate(content), load_dataset("digits"), output)
    return output


@pytest.fixture
def search_file(tmp_path: Path, teacher_folder: Path) -> Callable[..., Path]:
    """Writes a small search file; keywords stand in for its sections, or for keys of them."""

    def write(file: str = "small.yaml", /, folder: Path | None = None, **changes: Any) -> Path:
        return write_search((folder or tmp_path) / file, teacher_folder, **changes)

    return write


def write_search(path: Path, made: Path, /, **changes: Any) -> Path:
    content = {**SMALL, "teacher": {"name": str(made), "store": str(made.parent / "store")}}
    for key, value in changes.items():
        known = content.get(key)
        merge = isinstance(known, dict) and isinstance(value, dict) and key in ("search", "score", "final", "latency")
        content[key] = {**known, **value} if merge else value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """The folder of a finished search, read-only; a test may only add files."""
    folder = tmp_path_factory.mktemp("finished")
    answer = run_in_process("search", write_search(folder / "small.yaml", teacher_folder), "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    return folder / "small"


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the export of finalists, which takes longest, of searches that are about something else."""
    monkeypatch.setattr("nas_distill.study.pipeline.export_finalists", lambda *_: None)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread, and two tests at a time do not fight over processors."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
