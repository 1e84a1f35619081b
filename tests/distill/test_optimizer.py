"""The optimiser updates all weights in one kernel where that is right, and is the plain one where it is not."""

import copy

import pytest
import torch
from torch import nn

from nas_distill.config import OptimizerConfig
from nas_distill.distill.loop import make_optimizer

CONFIGS = {
    "sgd": OptimizerConfig(name="sgd", lr=0.1),
    "adamw": OptimizerConfig(name="adamw", lr=0.01),
}


class Strided(nn.Module):
    """A linear layer whose weight is every second column of a larger matrix."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 8, generator=generator)[:, ::2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def convolutions() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(6, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 4, 1),
            nn.Flatten(),
        ).to(memory_format=torch.channels_last)


def by_hand(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Torch's loop over the weights, one at a time."""
    groups = [
        {"params": [weight for weight in model.parameters() if weight.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [weight for weight in model.parameters() if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, foreach=False)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True, foreach=False)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    ("build", "shape"), [(Strided, (5, 6)), (convolutions, (5, 6, 7, 7))], ids=["strided weight", "channels last"]
)
def test_updates_are_those_of_the_plain_loop_in_any_memory_layout(build, shape, config) -> None:
    model, twin = build(), build()  # not a copy, which would change the strides of a weight
    before = copy.deepcopy(model.state_dict())
    optimizers = make_optimizer(model.parameters(), config), by_hand(twin, config)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        x = torch.randn(shape, generator=generator)
        for network, optimizer in zip((model, twin), optimizers):
            optimizer.zero_grad()
            (network(x) - 1).square().mean().backward()
            optimizer.step()
    for (name, weight), expected in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)
        assert not torch.equal(weight, before[name])


def test_dense_weights_share_one_kernel() -> None:
    groups = make_optimizer(convolutions().parameters(), CONFIGS["sgd"]).param_groups
    assert all(group["fused"] for group in groups)
    assert not any(group["fused"] for group in make_optimizer(Strided().parameters(), CONFIGS["sgd"]).param_groups)
