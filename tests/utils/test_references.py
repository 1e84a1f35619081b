import sys

import pytest

from nas_distill.utils.errors import ConfigError, TrustError
from nas_distill.utils.references import accepts_keyword, is_reference, load_reference, only_known, remember_builder


@pytest.mark.parametrize("text", ["a:b", "a.b.c:d", "a:B.c", "_x:y1"])
def test_valid_references_are_recognised(text):
    assert is_reference(text)


@pytest.mark.parametrize("text", ["", "a", "a:", ":b", "a:b:c", "a b:c", "a.:b", "1a:b", "a/b.py:c", "fashion-mnist"])
def test_invalid_references_are_refused(text):
    assert not is_reference(text)
    with pytest.raises(ConfigError, match=r"^thing is '.*', which is not of the form package\.module:function\.$"):
        load_reference(text, what="thing")


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """(write, folder): a writer of modules that only ``paths`` makes importable."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return tmp_path

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_module_next_to_the_search_file_is_found(module):
    folder = module("reference_found", "class Maker:\n    @staticmethod\n    def make(): return 7\n")
    assert load_reference("reference_found:Maker.make", what="builder", paths=[folder])() == 7
    assert sys.path.count(str(folder)) == 1
    load_reference("reference_found:Maker", what="builder", paths=[folder])
    assert sys.path.count(str(folder)) == 1


def test_folders_of_a_search_file_move_to_the_front_of_the_path(module, tmp_path_factory):
    folder = module("reference_twice", "PLACE = 'here'\n")
    other = tmp_path_factory.mktemp("other")
    (other / "reference_twice.py").write_text("PLACE = 'other'\n")
    sys.path[:0] = [str(other), str(folder)]
    assert load_reference("reference_twice:PLACE", what="place", paths=[folder]) == "here"
    assert sys.path.index(str(folder)) < sys.path.index(str(other))


def test_a_misspelt_function_gets_a_suggestion(module):
    folder = module("reference_misspelt", "def build(): pass\n")
    with pytest.raises(ConfigError, match="module 'reference_misspelt' has no 'biuld'; did you mean 'build'"):
        load_reference("reference_misspelt:biuld", what="builder", paths=[folder])


def test_a_missing_module_is_named():
    with pytest.raises(ConfigError, match=r"^builder: module 'no_such_module' cannot be imported \(.*No module named"):
        load_reference("no_such_module:build", what="builder")


@pytest.mark.parametrize("text", ["import no_such_module", "1 / 0", "def broken(:", "raise SystemExit(0)"])
def test_a_module_that_fails_during_import_is_reported(module, text):
    folder = module("reference_broken", text)
    with pytest.raises(ConfigError, match="builder: module 'reference_broken' cannot be imported"):
        load_reference("reference_broken:build", what="builder", paths=[folder])


def test_accepted_keywords_of_a_function():
    def given(a, /, b, *, c):
        pass

    assert not accepts_keyword(given, "a")
    assert accepts_keyword(given, "b")
    assert accepts_keyword(given, "c")
    assert not accepts_keyword(given, "d")
    assert accepts_keyword(lambda **rest: None, "anything")
    assert accepts_keyword(dict, "anything")  # its signature is not readable


def test_only_built_in_networks_are_known(monkeypatch):
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    with only_known("folder"):
        for name in (
            "nas_distill.models.resnet:build",
            "nas_distill.models.mbconv:build",
            "nas_distill.pruning.build:build",
        ):
            assert load_reference(name, what="builder").__name__ == "build"
        for name in (
            "nas_distill.models.resnet:nn",
            "nas_distill.models.resnet:nn.Linear",
            "nas_distill.pruning.build:redraw",
        ):
            with pytest.raises(TrustError, match="which would run code that folder names; give trust=True"):
                load_reference(name, what="builder")
    assert load_reference("nas_distill.pruning.build:redraw", what="builder").__name__ == "redraw"


def test_a_builder_that_the_process_used_is_known(monkeypatch, module):
    monkeypatch.setattr("nas_distill.utils.references._used", {})
    folder = module("reference_used", "def build(): return 7\ndef other(): return 8\n")
    with only_known("folder"):
        with pytest.raises(TrustError):
            load_reference("reference_used:build", what="builder", paths=[folder])
        assert "reference_used" not in sys.modules
        remember_builder("reference_used:build", accepts_keyword)  # an untrusted folder cannot register a name
        with pytest.raises(TrustError):
            load_reference("reference_used:build", what="builder")
    remember_builder("reference_used:build", load_reference("reference_used:build", what="builder", paths=[folder]))
    with only_known("folder"):
        assert load_reference("reference_used:build", what="builder")() == 7
        with pytest.raises(TrustError):
            load_reference("reference_used:other", what="builder")
