import pytest
import torch
from torch import nn

from nas_distill.distill.projectors import MapProjector, TokenProjector, VectorProjector, make_projector
from nas_distill.utils.errors import TrainingError
from nas_distill.utils.seeds import seeded_torch


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [
        ((8, 7, 7), (16, 7, 7), (7, 7)),
        ((8, 14, 14), (16, 7, 7), (7, 7)),
        ((8, 4, 4), (16, 7, 7), (4, 4)),
        ((8, 14, 3), (8, 7, 6), (7, 3)),
        ((8, 1, 1), (4, 5, 5), (1, 1)),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("always", [False, True])
def test_maps_come_to_the_teacher_s_channels_at_the_smaller_size(student, teacher, size, layout, always):
    projector = MapProjector(student, teacher, always=always).to(memory_format=layout)
    projected = projector(drawn(3, *student).to(memory_format=layout))
    target = projector.target(drawn(3, *teacher).to(memory_format=layout))
    assert projected.shape == target.shape == (3, teacher[0], *size)


def test_the_larger_map_is_averaged():
    projector = MapProjector((8, 4, 4), (8, 2, 2))
    x = drawn(3, 8, 4, 4)
    torch.testing.assert_close(projector(x), nn.functional.avg_pool2d(x, 2))
    turned = MapProjector((8, 2, 2), (8, 4, 4))
    torch.testing.assert_close(turned.target(x), nn.functional.avg_pool2d(x, 2))


def test_vectors_and_tokens_come_to_the_teacher_s_width():
    assert VectorProjector((5,), (7,))(drawn(3, 5)).shape == (3, 7)
    tokens = TokenProjector((4, 5), (4, 7))
    x = drawn(3, 4, 5)
    assert tokens(x).shape == (3, 4, 7)
    torch.testing.assert_close(tokens(x)[:, 2], tokens(x[:, 2]))  # one layer for all tokens


SAME = [
    (MapProjector, (8, 4, 4)),
    (VectorProjector, (8,)),
    (TokenProjector, (4, 8)),
]


@pytest.mark.parametrize(("kind", "shape"), SAME)
def test_equal_shapes_need_no_weights_unless_asked_for(kind, shape):
    x = drawn(3, *shape)
    assert torch.equal(kind(shape, shape)(x), x)
    assert not list(kind(shape, shape).parameters())
    assert list(kind(shape, shape, always=True).parameters())
    assert torch.equal(kind(shape, shape, always=True).target(x), x)


@pytest.mark.parametrize(("kind", "shape"), SAME)
def test_weights_are_the_caller_s_seed_s(kind, shape):
    def make(seed):
        with seeded_torch(seed, "projector"):
            return kind(shape, shape, always=True).state_dict()

    assert all(torch.equal(value, make(0)[key]) for key, value in make(0).items())
    assert any(not torch.equal(value, make(1)[key]) for key, value in make(0).items())


@pytest.mark.parametrize(("kind", "shape"), SAME)
def test_half_precision_features_are_projected_in_the_weights_type(kind, shape):
    projector = kind(shape, shape, always=True)
    x = drawn(3, *shape).bfloat16().requires_grad_()
    projected = projector(x)
    assert projected.dtype == torch.float32
    projected.square().sum().backward()
    assert x.grad is not None
    assert all(weight.grad is not None for weight in projector.parameters())


def test_a_projector_learns_a_linear_teacher():
    with seeded_torch(0):
        projector = VectorProjector((6,), (4,))
    x, hidden = drawn(64, 6), drawn(6, 4)
    optimizer = torch.optim.Adam(projector.parameters(), 0.05)
    for _ in range(200):
        loss = (projector(x) - projector.target(x @ hidden)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [("map", (8, 4, 4), MapProjector), ("vector", (8,), VectorProjector), ("tokens", (4, 8), TokenProjector)],
)
def test_a_pair_gets_the_projector_of_its_kind(kind, shape, expected):
    assert type(make_projector(shape, shape)) is expected
    assert list(make_projector(shape, shape, always=True).parameters())


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(TrainingError, match="The student has 4 tokens and the teacher 9"):
        TokenProjector((4, 8), (9, 8))
    with pytest.raises(TrainingError, match=r"shape \(8,\) .* 3 dimensions"):
        MapProjector((8, 4, 4), (8,))
    with pytest.raises(TrainingError, match=r"shape \(4, 8\) .* 1 dimension\."):
        VectorProjector((4, 8), (8,))
