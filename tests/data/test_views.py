import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.data import Dataset, Views
from nas_distill.utils.errors import DataError
from nas_distill.utils.seeds import torch_generator


def one_by_one(views, x, index, view, samples):
    """A slow reference of views: an optional mirror, then a crop H x W of the zero-padded image."""
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
def test_views_of_batches_equal_views_of_single_samples(pad, flip, channels, height, width, view, dtype, index):
    views, places = Views(count=2, pad=pad, flip=flip, seed=3), torch.tensor(index)
    x = torch.randint(0, 256, (10, channels, height, width), generator=torch.Generator().manual_seed(0)).to(dtype)[
        places
    ]
    got = views.apply(x, places, view, 10)
    assert got.dtype == dtype
    assert torch.equal(got, one_by_one(views, x, places, view, 10))


def images(samples=12):
    return torch.randint(0, 256, (samples, 1, 6, 6), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_a_view_of_a_sample_does_not_depend_on_the_batch_or_earlier_draws():
    views, x, everything = Views(count=3, pad=2, flip=True), images(), torch.arange(12)
    whole = views.apply(x, everything, 1, 12)
    torch.manual_seed(99)
    for other in (5, 0, 2, 1, 77):  # more views than are cached
        views.apply(x, everything, other, 12)
    order = torch.tensor([7, 3, 3, 11])
    assert torch.equal(views.apply(x[order], order, 1, 12), whole[order])
    assert torch.equal(Views(count=9, pad=2, flip=True).apply(x, everything, 1, 12), whole)


def test_views_seeds_and_samples_differ():
    views, everything = Views(count=3, pad=2, flip=True), torch.arange(12)
    x = images(1).expand(12, 1, 6, 6)  # the same image at all indices
    seen = views.apply(x, everything, 0, 12)
    assert len({part.numpy().tobytes() for part in seen}) > 6
    assert not torch.equal(seen, views.apply(x, everything, 1, 12))
    assert not torch.equal(seen, Views(count=3, pad=2, flip=True, seed=1).apply(x, everything, 0, 12))


def test_shifts_and_mirrors_are_uniformly_distributed():
    views, count = Views(count=1, pad=1, flip=True), 4000
    x = torch.zeros(count, 1, 5, 5, dtype=torch.uint8)
    x[:, :, 2, 2], x[:, :, 2, 3] = 1, 2  # a mark that shows shift and direction
    seen = views.apply(x, torch.arange(count), 0, count)
    ones = seen.eq(1).flatten(1).int().argmax(1)
    mirrored = seen.flatten(1).roll(1, dims=1).gather(1, ones[:, None]).squeeze(1).eq(2)
    assert abs(float(mirrored.float().mean()) - 0.5) < 0.05
    rows = torch.bincount(ones // 5, minlength=5)[1:4]
    assert rows.sum() == count
    assert rows.min() > count / 3 * 0.9


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_without_shift_and_mirror_the_only_view_is_the_sample(dtype):
    views, x = Views(count=4), torch.ones(3, 7).to(dtype)
    assert views.identity
    assert views.count == 1
    assert views == Views()
    assert views.apply(x, torch.arange(3), 0, 3) is x


def test_a_recipe_identifies_and_reproduces_views():
    views = Views(count=3, pad=2, flip=True, seed=5)
    assert Views(**views.recipe()) == views
    others = [Views(4, 2, True, 5), Views(3, 1, True, 5), Views(3, 2, False, 5), Views(3, 2, True, 6)]
    assert all(other.recipe() != views.recipe() for other in others)


def shifted(sample, shifts):
    """A slow reference of zero-padded shifts of the last axes."""
    result = torch.zeros_like(sample)
    ahead = sample.dim() - len(shifts)
    into, out = [slice(None)] * ahead, [slice(None)] * ahead
    for axis, shift in enumerate(shifts, start=ahead):
        size = sample.shape[axis]
        into.append(slice(max(0, -shift), size - max(0, shift)))
        out.append(slice(max(0, shift), size - max(0, -shift)))
    result[tuple(into)] = sample[tuple(out)]
    return result


@pytest.mark.parametrize(
    ("shape", "pad", "axes"),
    [
        ((2, 6, 8), (3, 0), (3, 0)),
        ((2, 6, 8), (0, 3), (0, 3)),
        ((2, 6, 8), (2,), (2,)),
        ((6, 8), (3, 1), (3, 1)),
        ((2, 9), 2, (2,)),
        ((9,), 2, (2,)),
        ((2, 4, 5, 6), (1, 2, 3), (1, 2, 3)),
    ],
)
def test_samples_are_shifted_by_axis(shape, pad, axes):
    views, count = Views(count=2, pad=pad, seed=4), 30
    x = torch.arange(1, 1 + count * int(np.prod(shape)), dtype=torch.float32).view(count, *shape)
    seen = views.apply(x, torch.arange(count), 1, count)
    found = set()
    for before, after in zip(x, seen):
        options = np.ndindex(*(2 * most + 1 for most in axes))
        shifts = [tuple(int(at) - most for at, most in zip(option, axes)) for option in options]
        (matching,) = [shift for shift in shifts if torch.equal(after, shifted(before, shift))]
        found.add(matching)
    for axis, most in enumerate(axes):
        assert {shift[axis] for shift in found} == set(range(-most, most + 1))
    order = torch.tensor([7, 3, 3])
    assert torch.equal(views.apply(x[order], order, 1, count), seen[order])


def test_equal_shifts_per_axis_equal_those_of_one_number():
    x, everything = images(), torch.arange(12)
    one, two = (Views(count=2, pad=pad, flip=True).apply(x, everything, 1, 12) for pad in (2, (2, 2)))
    assert torch.equal(one, two)


def noisy(sample, generator):
    return sample + torch.rand(sample.shape, generator=generator)


def unseeded(sample, generator):
    return sample + torch.rand(sample.shape)


def shrunk(sample, generator):
    return sample[..., 1:]


def failing(sample, generator):
    raise KeyError("no such band")


def dataset(function, **options):
    x = np.ones((12, 1, 6, 6), dtype=np.float32)
    return Dataset.from_tensors(x, np.arange(12) % 2, views=Views(count=2, function=function, **options))


def test_a_user_function_is_applied_per_sample():
    views, x, everything = Views(count=2, function=noisy), torch.zeros(12, 1, 6, 6), torch.arange(12)
    seen = views.apply(x, everything, 0, 12)
    assert len({part.numpy().tobytes() for part in seen}) == 12
    assert not torch.equal(seen, views.apply(x, everything, 1, 12))
    assert not x.any()
    torch.manual_seed(99)
    order = torch.tensor([7, 3, 3, 11])
    assert torch.equal(views.apply(x[order], order, 0, 12), seen[order])
    assert torch.equal(pickle.loads(pickle.dumps(views)).apply(x, everything, 0, 12), seen)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unseeded, "gives different results"),
        (shrunk, r"returned torch.float32 of shape \(1, 6, 5\)"),
        (failing, "failed .*no such band"),
    ],
)
def test_an_invalid_view_function_is_refused(function, message):
    with pytest.raises(DataError, match=message):
        dataset(function)


def test_the_recipe_has_a_functions_name_and_code(tmp_path):
    recipes = []
    for number, body in enumerate(["sample * 2", "sample * 3"]):
        name = f"users_views_{number}"
        (tmp_path / f"{name}.py").write_text(f"def change(sample, generator):\n    return {body}\n")
        data = dataset(f"{name}:change", paths=(str(tmp_path),))
        index = torch.arange(3)
        assert torch.equal(data.batch("train", index, 0)[0], torch.full((3, 1, 6, 6), 2.0 + number))
        recipes.append(data.views.recipe())
    assert recipes[0]["function"] == "users_views_0:change"
    assert recipes[0]["code"] != recipes[1]["code"]
    assert json.loads(json.dumps(recipes)) == recipes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "'count' is 0"),
        ({"pad": -1}, "'pad' is -1"),
        ({"pad": (1, -1)}, "'pad' is"),
        ({"function": "noisy"}, "package.module"),
    ],
)
def test_invalid_views_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        Views(**options)
