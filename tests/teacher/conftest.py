"""A small task and a small teacher."""

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.data import Dataset, Views
from nas_distill.teacher import Teacher, freeze

torch.set_num_threads(1)


@pytest.fixture
def make_data():
    def make(count=30, seed=0, classes=3, shape=(1, 4, 4), **options):
        rng = np.random.default_rng(seed)
        options = {"views": Views(count=3, pad=1, flip=True), "name": "toy", "val": 0.2, **options}
        x = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        return Dataset.from_tensors(x, np.arange(count) % classes, **options)

    return make


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def make_module():
    def make(classes=3, seed=0, inputs=16, width=8):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            # With dropout and batch norm, answers in train mode change from call to call.
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(inputs, width),
                nn.BatchNorm1d(width),
                nn.Dropout(0.5),
                nn.Linear(width, classes),
            )

    return make


@pytest.fixture
def make_teacher(make_module, data):
    def make(chosen=None, name="toy", **options) -> Teacher:
        return freeze(make_module(**options), chosen or data, name)

    return make


@pytest.fixture
def teacher(make_teacher):
    return make_teacher()
