"""Backends under test, and the toys they play with (importable by worker processes too)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nas_distill.engine.backends.inline import InlineBackend
from nas_distill.engine.work import Work


@pytest.fixture(scope="module")
def kept_tune(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Ray for all tests of a module."""
    from nas_distill.engine.backends.tune import TuneBackend

    with TuneBackend(workers=2, folder=tmp_path_factory.mktemp("a run, lüften")) as backend:
        yield backend


@pytest.fixture(params=["inline", pytest.param("tune", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Any:
    return InlineBackend() if request.param == "inline" else request.getfixturevalue("kept_tune")


@pytest.fixture(params=["inline", pytest.param("tune", marks=pytest.mark.slow)])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A backend that ends what loops after three seconds."""

    def limit(work: Work) -> float | None:
        return 3.0 if work.architecture.values["act"] == "loop" else None

    if request.param == "inline":
        return InlineBackend(limit=limit)
    from nas_distill.engine.backends.tune import TuneBackend

    request.getfixturevalue("kept_tune").start()
    return TuneBackend(workers=1, folder=tmp_path, limit=limit)
