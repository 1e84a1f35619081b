import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.utils.seeds import derive, numpy_rng, seeded_torch, torch_generator

names = st.lists(st.one_of(st.text(max_size=5), st.integers(-5, 5)), max_size=3)


@given(st.integers(-(2**40), 2**70), names)
def test_derived_seeds_are_valid_for_torch(seed, name):
    value = derive(seed, *name)
    assert 0 <= value < 2**63
    torch.Generator().manual_seed(value)
    assert derive(seed, *name) == value


def test_names_and_seeds_change_the_derived_seed():
    asked = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "ab"), (0, "a", 1), (0, "a", 11), (0, "a1")]
    assert len({derive(*parts) for parts in asked}) == len(asked)


def test_derived_seeds_do_not_change_between_versions():
    # Stored logits and journals depend on them.
    assert derive(0, "view", 3) == 833982113878771283
    assert derive(7) == 4359823973405836615


def test_generators_do_not_use_global_state():
    torch_state = torch.get_rng_state()
    assert torch.equal(
        torch.rand(3, generator=torch_generator(1, "x")), torch.rand(3, generator=torch_generator(1, "x"))
    )
    assert numpy_rng(1, "x").random() == numpy_rng(1, "x").random()
    assert numpy_rng(1, "x").random() != numpy_rng(1, "y").random()
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_the_global_generator_is_restored():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = torch.rand(2)
    with seeded_torch(0, "init"):
        inside = torch.rand(3)
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    torch.manual_seed(99)
    with seeded_torch(0, "init"):
        assert torch.equal(torch.rand(3), inside)


def test_the_global_generator_is_restored_after_an_error():
    torch.manual_seed(5)
    state = torch.get_rng_state()

    def draw_and_fail():
        with seeded_torch(0, "init"):
            torch.rand(3)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), state)
