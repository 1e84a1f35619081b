from __future__ import annotations

import logging
import os
import signal
import threading
import types
import warnings
from pathlib import Path

import pytest

from nas_distill.engine.backends.silence import (
    environment,
    log_to_file,
    printing_logged,
    signal_handlers_kept,
    warnings_ignored_from,
)


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALK", "loud")
    monkeypatch.delenv("QUIET", raising=False)

    def fail() -> None:
        with environment({"TALK": "0", "QUIET": "1"}):
            assert (os.environ["TALK"], os.environ["QUIET"]) == ("0", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.environ["TALK"] == "loud"
    assert "QUIET" not in os.environ


def test_a_log_goes_only_to_the_file_and_loggers_are_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, child = logging.getLogger("chatty"), logging.getLogger("chatty.part")
    parent.addHandler(logging.StreamHandler())
    child.addHandler(logging.StreamHandler())
    child.propagate = False
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in (parent, child)]
    path = tmp_path / "a folder" / "chatty.log"
    with log_to_file("chatty", path):
        parent.setLevel(logging.INFO)
        parent.info("one")
        child.warning("two")
        logging.getLogger("chatty.new").error("three")
    assert [line.split(": ")[-1] for line in path.read_text().splitlines()] == ["one", "two", "three"]
    assert capsys.readouterr() == ("", "")
    assert [(logger.handlers, logger.propagate, logger.level) for logger in (parent, child)] == before
    with log_to_file("chatty", path):
        parent.warning("four")
    assert len(path.read_text().splitlines()) == 4
    parent.handlers.clear()
    child.handlers.clear()


def test_a_silent_library_leaves_no_file(tmp_path: Path) -> None:
    with log_to_file("silent", tmp_path / "silent.log"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_would_be_printed_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = types.SimpleNamespace(show=lambda data, loud: print(data["lines"]))
    function, logger = module.show, logging.getLogger("printing")
    logger.setLevel(logging.INFO)
    with log_to_file("printing", tmp_path / "log"), printing_logged(module, "show", logger):
        module.show({"lines": ["a worker", "died"]}, loud=True)
        module.show({}, loud=True)
    assert module.show is function
    assert (tmp_path / "log").read_text().splitlines()[0].endswith(": a worker died")
    assert capsys.readouterr().out == ""


def test_a_version_without_the_function_is_left_as_it_is() -> None:
    module = types.SimpleNamespace()
    with printing_logged(module, "show", logging.getLogger("printing")):
        assert not hasattr(module, "show")


def test_only_the_packages_own_warnings_are_ignored() -> None:
    def warn(module: str) -> None:
        warnings.warn_explicit("old", DeprecationWarning, "f.py", 1, module)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with warnings_ignored_from("ray"):
            warn("ray")
            warn("ray.tune.tune")
            for other in ("rayleigh", "mine.ray", "optuna"):
                with pytest.raises(DeprecationWarning):
                    warn(other)
        with pytest.raises(DeprecationWarning):
            warn("ray")


def test_signal_handlers_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with signal_handlers_kept():
        for number in before:
            signal.signal(number, signal.SIG_IGN)
    assert {number: signal.getsignal(number) for number in before} == before


def test_outside_the_main_thread_handlers_are_nobodys_business() -> None:
    failed: list[BaseException] = []

    def body() -> None:
        try:
            with signal_handlers_kept():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert failed == []
