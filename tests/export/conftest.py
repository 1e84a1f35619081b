"""One small trained network and its exported file, shared by all tests because exporting takes seconds."""

import pytest
import torch
from torch import nn

from nas_distill.costs.runtimes.onnx_runtime import export_onnx

SHAPE = (1, 8, 8)


class Net(nn.Module):
    """Network with what an exporter must get right: frozen statistics, dropout, a shape taken from the input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, image):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(image))), 2)
        return self.head(self.drop(x.reshape(x.shape[0], -1)))


@pytest.fixture(scope="session")
def network():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(16, *SHAPE) * 2 + 1)
    return net


@pytest.fixture(scope="session")
def before(network):
    """State and modes of the network before export: in train mode, with frozen statistics."""
    network.train()
    network.norm.eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    return {"state": state, "modes": [module.training for module in network.modules()]}


@pytest.fixture(scope="session")
def exported(network, before, tmp_path_factory):
    return export_onnx(
        network,
        SHAPE,
        tmp_path_factory.mktemp("a folder") / "student.onnx",
        teacher="fashion teacher",
        architecture="0123456789abcdef",
        normalisation={"scale": 1 / 255, "mean": [0.28], "std": [0.35]},
        class_names=["T-shirt", "Größe", "c", "d", "e"],
        metadata={"accuracy": 0.93},
    )
