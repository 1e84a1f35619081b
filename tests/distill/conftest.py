"""A small task, students and teachers of it, and trainings that take a fraction of a second."""

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.config import TrainingConfig
from nas_distill.data import Dataset, Views
from nas_distill.distill import Distiller
from nas_distill.teacher import LiveSignal, freeze

torch.set_num_threads(1)


def images(count, classes, seed):
    """Images whose brightness says the class, in every view, so that something can be learnt from them."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = rng.integers(0, 40, (count, 1, 6, 6)) + 50 * y[:, None, None, None]
    return x.astype(np.uint8), y


@pytest.fixture
def make_data():
    def make(count=48, classes=3, seed=0, **options):
        options = {"views": Views(count=2, pad=1, flip=True), "mean": (0.25,), "std": (0.2,), "name": "toy", **options}
        return Dataset.from_tensors(
            *images(count, classes, seed), val=images(30, classes, 100), test=images(30, classes, 200), **options
        )

    return make


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def make_model():
    def make(classes=3, width=4, seed=0, dropout=0.3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Flatten(),
                nn.Linear(width * 36, classes),
            )

    return make


@pytest.fixture
def signal(make_model, data):
    return LiveSignal(freeze(make_model(width=8, seed=5), data))


@pytest.fixture
def training():
    return TrainingConfig(epochs=4, batch_size=8)


@pytest.fixture
def make_distiller(make_model, data, training, signal):
    def make(model=None, given=None, settings=None, *, taught=True, seed=0, **changes):
        settings = settings or training
        if changes:
            settings = TrainingConfig(**{**settings.model_dump(), **changes})
        return Distiller(
            make_model() if model is None else model,
            given or data,
            settings,
            signal=signal if taught else None,
            seed=seed,
        )

    return make
