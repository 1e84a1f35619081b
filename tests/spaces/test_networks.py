"""The network builder of a search: seeded random weights, and initial weights of students."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import torch
from torch import nn

from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace


def build(*, width: int, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * width, num_classes))


@dataclass(frozen=True)
class Data:
    input_shape: tuple[int, ...] = (3,)
    num_classes: int = 5


class Ones:
    def fill(self, student: nn.Module, architecture: Architecture) -> None:
        nn.init.constant_(student[1].weight, float(architecture.values["width"]))


SPACE = SearchSpace.from_dict({"width": [1, 2]}, builder=build)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


def test_networks_have_the_shapes_of_the_data() -> None:
    network = NetworkBuilder.of(SPACE, Data()).build(SPACE.largest())
    assert (network[1].in_features, network[1].out_features) == (6, 5)


def test_weights_depend_on_seed_and_stream_and_the_global_generator_is_restored() -> None:
    builder, state = NetworkBuilder.of(SPACE, Data()), torch.get_rng_state()
    first = weights(builder.build(SPACE.smallest(), 3))
    assert torch.equal(first, weights(builder.build(SPACE.smallest(), 3)))
    assert not torch.equal(first, weights(builder.build(SPACE.smallest(), 4)))
    assert not torch.equal(first, weights(builder.build(SPACE.smallest(), 3, stream="costing")))
    assert torch.equal(state, torch.get_rng_state())


def test_students_get_the_given_initial_weights() -> None:
    plain = NetworkBuilder.of(SPACE, Data())
    assert torch.equal(weights(plain.build_student(SPACE.largest(), 3)), weights(plain.build(SPACE.largest(), 3)))
    given = pickle.loads(pickle.dumps(replace(plain, weights=Ones())))
    assert given.build_student(SPACE.largest(), 3)[1].weight.eq(2).all()
    assert torch.equal(weights(given.build(SPACE.largest(), 3)), weights(plain.build(SPACE.largest(), 3)))
