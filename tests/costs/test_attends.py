from torch import nn
from torch.nn import functional

from nas_distill.costs.tracing import attends


class Attention(nn.Module):
    """Attention of one head over (B, 5, 4), as one operation or written out."""

    def __init__(self, spelt_out):
        super().__init__()
        self.spelt_out, self.inward, self.out = spelt_out, nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.inward(x).chunk(3, -1)
        if self.spelt_out:
            return self.out(functional.dropout((q @ k.transpose(-1, -2)).softmax(-1), 0.1, self.training) @ v).mean(1)
        return self.out(functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]).mean(1)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.table(x.long()).mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)

    def forward(self, x):
        return self.encoder(x).mean(1)


def test_attention_and_tokens_are_detected():
    assert attends(Attention(spelt_out=False), (5, 4))
    assert attends(Attention(spelt_out=True), (5, 4))
    assert attends(Encoder(), (5, 4))
    assert attends(Tokens(), (5,))


def test_networks_without_either_do_not_attend():
    body = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert not attends(nn.Sequential(*body, nn.Linear(4, 2), nn.Softmax(-1)), (1, 8, 8))
    assert not attends(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8))


def test_a_network_that_cannot_be_recorded_does_not_attend():
    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    assert not attends(Failing(), (1, 8, 8))
