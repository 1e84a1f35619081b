"""User-defined runtimes, found by ``package.module:Class``."""

import pytest
from torch import nn

from nas_distill.costs import find_runtime, time_module
from nas_distill.utils.errors import ConfigError, CostError, TrustError
from nas_distill.utils.references import only_known


def test_an_own_runtime_is_found_and_times(own_runtime):
    found = find_runtime(own_runtime)

    sample = time_module(nn.Linear(3, 2), (3,), repeats=3, runtime=found)
    assert sample.p50_ms == 0.25
    assert sample.conditions.runtime == "a slow machine 3"


def test_code_of_an_untrusted_folder_is_not_loaded(own_runtime, tmp_path):
    with only_known(tmp_path), pytest.raises(TrustError, match="my_runtimes:Pickled"):
        find_runtime(own_runtime)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("onnxruntim", "did you mean 'onnxruntime'"),
        ("my_runtimes:NotARuntime", "not a subclass"),
        ("my_runtimes:Unfinished", "lacks title, suffix, install, export, is_available, load, run, version"),
        ("my_runtimes:Pickld", "Pickled"),
    ],
)
def test_references_to_other_objects_are_refused(own_runtime, name, said):
    with pytest.raises(ConfigError, match=said):
        find_runtime(name)


def test_the_error_of_a_missing_runtime_says_what_to_install(own_runtime):
    with pytest.raises(CostError, match="buy one"):
        time_module(nn.Linear(3, 2), (3,), runtime=find_runtime("my_runtimes:Missing"))


@pytest.mark.parametrize("name", ["Failing", "Backwards"])
def test_errors_of_a_runtime_are_reported_in_one_sentence(own_runtime, name):
    with pytest.raises(CostError, match="a slow machine") as caught:
        time_module(nn.Linear(3, 2), (3,), runtime=find_runtime(f"my_runtimes:{name}"))
    assert "\n" not in str(caught.value)
