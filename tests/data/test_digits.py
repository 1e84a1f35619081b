import numpy as np

from nas_distill.data import Views, load_dataset


def test_digits_are_stratified_and_scaled_to_bytes():
    data = load_dataset("digits")
    assert [len(data.split(name)) for name in data.splits] == [1150, 288, 359]
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert data.train.x.dtype == np.uint8
    assert data.train.x.max() == 255
    for name in data.splits:
        counts = np.bincount(data.split(name).y)
        assert counts.max() - counts.min() <= 6
    assert data.fingerprint == load_dataset("digits").fingerprint
    assert data.fingerprint != load_dataset("digits", seed=1).fingerprint
    assert load_dataset("digits", views=Views(pad=2)).views == Views(pad=2)


def test_mean_and_std_standardise_digits():
    data = load_dataset("digits")
    x = data.train.x / 255
    assert abs(x.mean() - data.mean[0]) < 0.01
    assert abs(x.std() - data.std[0]) < 0.01
