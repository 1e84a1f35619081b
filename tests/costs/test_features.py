import pytest
import torch
from torch import nn

from nas_distill.costs.latency import FEATURES, features
from nas_distill.costs.tracing import trace

torch.set_num_threads(1)


def of(model, shape, batch=1):
    found = features(trace(model, shape), batch)
    assert tuple(found) == FEATURES
    assert all(value >= 0 for value in found.values())
    return found


def test_kinds_of_kernels_are_distinguished():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 9, 5),
    )
    found = of(model, (3, 6, 6))

    assert {name: found[f"calls_{name}"] for name in ("dense", "pointwise", "depthwise", "product", "other")} == {
        "dense": 2,
        "pointwise": 1,
        "depthwise": 1,
        "product": 1,
        "other": 1,
    }
    assert found["flops_dense"] == 36 * (8 * 27 + 16 * 4 * 9)
    assert found["flops_pointwise"] == 36 * 8 * 16
    assert found["flops_depthwise"] == 36 * 16 * 9
    assert found["flops_product"] == 16 * 9 * 5
    assert found["weight_bytes_product"] == 4 * (16 * 9 * 5 + 5)
    assert found["bytes_other"] == 4 * (16 * 36 + 16 * 9)


def test_operations_fused_into_a_convolution_are_not_kernels():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

        def forward(self, x):
            return torch.relu(x + self.body(x))

    assert of(Block(), (4, 5, 5))["calls_other"] == 0
    assert of(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), (4, 6, 6))["calls_other"] == 2
    assert of(nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.ReLU()), (4,))["calls_other"] == 0


@pytest.mark.parametrize(("width", "tiled"), [(6, 6), (7, 12), (12, 12), (1, 6)])
def test_widths_are_tiled(width, tiled):
    found = of(nn.Conv2d(8, 8, (1, 1)), (8, 2, width))

    assert found["tiled_pointwise"] == pytest.approx(2 * tiled * 64)


@pytest.mark.parametrize(("channels", "narrow", "wide"), [(8, 1, 1), (32, 1, 1), (40, 2, 1), (72, 3, 2)])
def test_the_input_is_swept_once_per_block_of_channels(channels, narrow, wide):
    found = of(nn.Conv2d(8, channels, 3, padding=1), (8, 4, 4))

    assert found["sweeps32_dense"] == pytest.approx(narrow * 16 * 8 * 9)
    assert found["sweeps64_dense"] == pytest.approx(wide * 16 * 8 * 9)


def test_a_batch_multiplies_work_and_activations_but_neither_calls_nor_weights():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 4))
    one, four = of(model, (3, 6, 6)), of(model, (3, 6, 6), batch=4)

    for name in FEATURES:
        fixed = name == "network" or name.startswith(("calls_", "weight_bytes_"))
        assert four[name] == pytest.approx(one[name] * (1 if fixed else 4)), name


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv1d(3, 8, 3), (3, 9)),
        (nn.Conv3d(2, 4, 3), (2, 5, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5)),
        (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (5, 16)),
        (nn.LSTM(4, 6, batch_first=True), (7, 4)),
    ],
)
def test_every_counted_operation_has_a_kind(model, shape):
    found = of(model, shape)
    counted = trace(model, shape).flops()

    assert sum(found[f"flops_{kind}"] for kind in ("dense", "pointwise", "depthwise", "product")) == counted > 0
