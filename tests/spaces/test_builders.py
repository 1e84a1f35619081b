import functools
import pickle

import cloudpickle
import pytest
import torch
from torch import nn

from nas_distill.spaces import SearchSpace
from nas_distill.utils.errors import BuildError

WIDTH = {"width": [4, 8]}


class Net(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.linear = nn.Linear(width, num_classes)


def build(width, *, input_shape, num_classes, bias=True):
    module = nn.Linear(width, num_classes, bias=bias)
    module.input_shape = input_shape
    return module


def make(space, **values):
    return space.build(space.validate(values), input_shape=(1, 8, 8), num_classes=3)


def test_a_builder_gets_parameters_arguments_and_data_sizes():
    space = SearchSpace.from_dict({"builder": build, "parameters": WIDTH, "arguments": {"bias": False}})
    module = make(space, width=8)
    assert module.weight.shape == (3, 8)
    assert module.bias is None
    assert module.input_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("builder", "taken"),
    [
        (lambda width: nn.Linear(width, 1), 1),
        (lambda width, num_classes: nn.Linear(width, num_classes), 3),
        (lambda width, **data: nn.Linear(width, data["num_classes"]), 3),
        (lambda **keywords: nn.Linear(keywords["width"], keywords["num_classes"] + keywords["input_shape"][0]), 4),
        (functools.partial(build, bias=False), 3),
    ],
)
def test_a_builder_gets_only_data_sizes_that_it_accepts(builder, taken):
    assert make(SearchSpace.from_dict(WIDTH, builder=builder), width=4).weight.shape == (taken, 4)


def test_a_class_can_be_a_builder():
    assert isinstance(make(SearchSpace.from_dict(WIDTH, builder=Net), width=4), Net)


def test_a_builder_cannot_change_arguments_of_the_space():
    def greedy(stages, options):
        stages.clear()
        options["x"].append(1)
        return nn.Identity()

    mapping = {
        "builder": greedy,
        "parameters": {"stages": {"repeat": 1, "of": [1]}},
        "arguments": {"options": {"x": []}},
    }
    space = SearchSpace.from_dict(mapping)
    before = space.fingerprint
    architecture = space.smallest()
    space.build(architecture, input_shape=(1, 8, 8), num_classes=3)
    assert architecture.to_dict() == {"stages": [1]}
    assert space.arguments == {"options": {"x": []}}
    assert space.fingerprint == before


def raises(width):
    raise RuntimeError(f"width {width}\nis too small")


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (raises, "RuntimeError: width 4 is too small"),
        (lambda width, height: nn.Identity(), "TypeError: .*height"),
        (lambda: nn.Identity(), "TypeError: .*width"),
        (lambda width: None, "returned a NoneType, not a torch.nn.Module"),
        (lambda width: nn.Identity, "returned a type, not a torch.nn.Module"),
    ],
)
def test_a_failing_builder_is_reported_with_the_architecture(builder, message):
    space = SearchSpace.from_dict(WIDTH, builder=builder)
    with pytest.raises(BuildError, match=message) as caught:
        make(space, width=4)
    assert space.smallest().hash in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_builder_must_be_callable():
    space = SearchSpace.from_dict({"builder": "math:pi", "parameters": WIDTH})
    with pytest.raises(BuildError, match="math:pi, is not a function"):
        make(space, width=4)


def test_the_caller_seeds_initial_weights():
    space = SearchSpace.from_dict(WIDTH, builder=build)
    torch.manual_seed(3)
    one, other = make(space, width=4), make(space, width=4)
    torch.manual_seed(3)
    again = make(space, width=4)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)


def test_a_builder_in_a_folder_of_the_user(tmp_path):
    (tmp_path / "users_own_builder.py").write_text("import torch\ndef build(width): return torch.nn.Linear(width, 1)\n")
    mapping = {"builder": "users_own_builder:build", "parameters": WIDTH}
    space = SearchSpace.from_dict(mapping, paths=[tmp_path])
    assert make(pickle.loads(pickle.dumps(space)), width=8).weight.shape == (1, 8)


def test_a_space_with_a_notebook_builder_is_pickled_by_cloudpickle():
    cell = {"__name__": "__main__"}
    exec("from torch import nn\nscale = 2\ndef build(width):\n    return nn.Linear(width * scale, 1)\n", cell)
    space = SearchSpace.from_dict(WIDTH, builder=cell["build"])
    there = pickle.loads(cloudpickle.dumps(space))
    assert make(there, width=4).weight.shape == (1, 8)
    assert there.fingerprint == space.fingerprint
    assert space.to_dict()["builder"] == "__main__:build"


def test_the_fingerprint_depends_on_a_functions_source():
    def first():
        def build(width):
            return nn.Linear(width, 1)

        return build

    def second():
        def build(width):
            return nn.Linear(width, 2)

        return build

    def fingerprint(builder):
        return SearchSpace.from_dict(WIDTH, builder=builder).fingerprint

    one, same, other = first(), first(), second()
    one.__qualname__ = same.__qualname__ = other.__qualname__ = "build"
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(functools.partial(build, bias=True)) != fingerprint(functools.partial(build, bias=False))
    assert fingerprint(functools.partial(build, bias=True)) == fingerprint(functools.partial(build, bias=True))
