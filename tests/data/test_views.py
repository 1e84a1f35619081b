import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.common.errors import DataError
from nas_distill.common.seeds import torch_generator
from nas_distill.data import Views


def one_by_one(views, x, index, view, samples):
    """The slow reading of what a view is: mirror or not, then cut H x W out of the zero-padded image."""
    generator = torch_generator(views.seed, "view", view)
    shifts = torch.randint(0, 2 * views.pad + 1, (samples, 2), generator=generator)
    mirrored = torch.rand(samples, generator=generator) < 0.5
    result = []
    for image, place in zip(x, index.tolist()):
        channels, height, width = image.shape
        canvas = np.zeros((channels, height + 2 * views.pad, width + 2 * views.pad), dtype=image.numpy().dtype)
        canvas[:, views.pad : views.pad + height, views.pad : views.pad + width] = image.numpy()
        top, left = shifts[place].tolist()
        crop = canvas[:, top : top + height, left : left + width]
        result.append(crop[:, :, ::-1] if views.flip and mirrored[place] else crop)
    return torch.from_numpy(np.stack([part.copy() for part in result]))


@settings(max_examples=40, deadline=None)
@given(
    pad=st.integers(0, 3),
    flip=st.booleans(),
    channels=st.integers(1, 3),
    height=st.integers(4, 6),
    width=st.integers(4, 6),
    view=st.integers(0, 50),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    index=st.lists(st.integers(0, 9), min_size=1, max_size=6),
)
def test_whole_batches_get_what_each_sample_would(pad, flip, channels, height, width, view, dtype, index):
    views, places = Views(count=2, pad=pad, flip=flip, seed=3), torch.tensor(index)
    x = torch.randint(0, 256, (10, channels, height, width), generator=torch.Generator().manual_seed(0)).to(dtype)[
        places
    ]
    got = views.apply(x, places, view, 10)
    assert got.dtype == dtype
    assert torch.equal(got, one_by_one(views, x, places, view, 10))


def images(samples=12):
    return torch.randint(0, 256, (samples, 1, 6, 6), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_a_view_of_a_sample_does_not_depend_on_its_company_or_on_what_was_drawn_before():
    views, x, everything = Views(count=3, pad=2, flip=True), images(), torch.arange(12)
    whole = views.apply(x, everything, 1, 12)
    torch.manual_seed(99)
    for other in (5, 0, 2, 1, 77):  # more views than are remembered
        views.apply(x, everything, other, 12)
    order = torch.tensor([7, 3, 3, 11])
    assert torch.equal(views.apply(x[order], order, 1, 12), whole[order])
    assert torch.equal(Views(count=9, pad=2, flip=True).apply(x, everything, 1, 12), whole)


def test_views_seeds_and_samples_differ():
    views, everything = Views(count=3, pad=2, flip=True), torch.arange(12)
    x = images(1).expand(12, 1, 6, 6)  # the same image in all places
    seen = views.apply(x, everything, 0, 12)
    assert len({part.numpy().tobytes() for part in seen}) > 6
    assert not torch.equal(seen, views.apply(x, everything, 1, 12))
    assert not torch.equal(seen, Views(count=3, pad=2, flip=True, seed=1).apply(x, everything, 0, 12))


def test_every_shift_and_both_sides_occur_about_equally_often():
    views, count = Views(count=1, pad=1, flip=True), 4000
    x = torch.zeros(count, 1, 5, 5, dtype=torch.uint8)
    x[:, :, 2, 2], x[:, :, 2, 3] = 1, 2  # a mark whose place and direction can be read
    seen = views.apply(x, torch.arange(count), 0, count)
    ones = seen.eq(1).flatten(1).int().argmax(1)
    mirrored = seen.flatten(1).roll(1, dims=1).gather(1, ones[:, None]).squeeze(1).eq(2)
    assert abs(float(mirrored.float().mean()) - 0.5) < 0.05
    rows = torch.bincount(ones // 5, minlength=5)[1:4]
    assert rows.sum() == count
    assert rows.min() > count / 3 * 0.9


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_without_shift_and_mirror_a_view_is_the_sample_and_there_is_one(dtype):
    views, x = Views(count=4), torch.ones(3, 7).to(dtype)
    assert views.identity
    assert views.count == 1
    assert views == Views()
    assert views.apply(x, torch.arange(3), 0, 3) is x


def test_a_recipe_tells_views_apart_and_makes_them_again():
    views = Views(count=3, pad=2, flip=True, seed=5)
    assert Views(**views.recipe()) == views
    others = [Views(4, 2, True, 5), Views(3, 1, True, 5), Views(3, 2, False, 5), Views(3, 2, True, 6)]
    assert all(other.recipe() != views.recipe() for other in others)


@pytest.mark.parametrize(("options", "message"), [({"count": 0}, "'count' is 0"), ({"pad": -1}, "'pad' is -1")])
def test_views_that_cannot_be(options, message):
    with pytest.raises(DataError, match=message):
        Views(**options)
