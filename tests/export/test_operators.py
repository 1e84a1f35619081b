import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas_distill.export.archive import ATEN, is_allowed
from nas_distill.export.graph import load_program, save_program


class Activations(nn.Module):
    def __init__(self):
        super().__init__()
        kinds = (
            "ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Hardshrink"
        )
        kinds += " Sigmoid Tanh Softplus Softsign Softshrink Tanhshrink LogSigmoid Identity Dropout AlphaDropout"
        self.layers = nn.Sequential(*(getattr(nn, kind)() for kind in kinds.split()))

    def forward(self, x):
        x = F.glu(self.layers(x), dim=-1) + F.relu_(x)[..., :4]
        x = x + F.gelu(x, approximate="tanh") + F.normalize(x, dim=1) + F.softmax(x, 1) + F.log_softmax(x, -1)
        return F.threshold(x, 0.1, 0.0).flatten(1)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding="same", groups=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norms = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True))
        self.line, self.cube = nn.Conv1d(4, 4, 3, padding=1), nn.Conv3d(1, 1, 3, padding=1)
        self.weighted = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 1))
        self.head = nn.LazyLinear(3)

    def forward(self, x):
        x = self.norms(self.up(self.depthwise(self.first(x))))
        x = F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) + F.avg_pool2d(x, 2) * F.adaptive_avg_pool2d(x, 1)
        x = F.lp_pool2d(x.abs(), 2, 2) + F.adaptive_max_pool2d(x, 4) + F.channel_shuffle(F.max_pool2d(x, 2), 2)
        x = F.local_response_norm(x, 2)
        for mode in ("nearest", "bilinear", "bicubic", "nearest-exact", "area"):
            x = F.interpolate(x, size=(4, 4) if mode != "area" else (8, 8), mode=mode)
        x = F.pad(F.pad(x, (1, 1)), (1, 0, 0, 1), mode="replicate")
        x = x + self.cube(x.unsqueeze(1)).squeeze(1)
        grid = F.affine_grid(torch.eye(2, 3).expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        x = x + F.fold(F.unfold(x, 3, padding=1), x.shape[-2:], 3, padding=1)
        x = self.weighted(F.max_pool1d(self.line(x.flatten(2)), 2))
        return self.head(x.mean(-1) + x.std(-1) + x.amax(-1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Linear(8, 16), nn.Parameter(torch.zeros(1, 8, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)
        self.table, self.rms = nn.Embedding(10, 16), nn.RMSNorm(16)

    def forward(self, x):
        x = self.embed(x.squeeze(1)) + self.position
        causal = torch.triu(torch.full((8, 8), -math.inf), 1)
        x = self.encoder(x, mask=causal, is_causal=True)
        tokens = x.argmax(-1).clamp(0, 9)
        x = self.decoder(self.rms(x + self.table(tokens)), x)
        x = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        x = torch.einsum("bij,bkj->bik", x, x).masked_fill(causal < 0, -1e4).softmax(-1) @ x
        return x.mean(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.gru, self.rnn = nn.GRU(12, 5, batch_first=True), nn.RNN(5, 4, batch_first=True)
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x):
        x, _ = self.lstm(x.squeeze(1))
        x, last = self.gru(x)
        x, _ = self.rnn(x)
        h, c = self.cell(x[:, -1])
        return torch.cat([h, c, last[-1]], 1)


class Signal(nn.Module):
    def forward(self, x):
        wave = x.flatten(1)
        power = torch.stft(wave, 16, 4, window=torch.hann_window(16), return_complex=True).abs().pow(2)
        spectrum = torch.view_as_real(torch.fft.rfft(wave)).square().sum(-1)
        x = torch.log1p(power).transpose(1, 2) / power.clamp_min(1e-6).sqrt().mean((1, 2), keepdim=True)
        return torch.cat([x.flatten(1), spectrum, torch.fft.irfft(torch.fft.rfft(wave)).abs().log10()], 1)


class Shapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(64.0).reshape(8, 8))
        self.größe = nn.Parameter(torch.ones(8))

    def forward(self, x):
        count = x.shape[0]
        x = x.squeeze(1).permute(0, 2, 1).contiguous() * self.größe + self.table.unsqueeze(0).expand(count, -1, -1)
        mask = (x > 0) & (x < 9) | ~(x == 3)
        x = torch.where(mask, x, torch.zeros_like(x)) + torch.flip(x, [1]).roll(1, 2) + x.cumsum(1)
        values, indices = x.topk(3, dim=-1)
        x = torch.cat([values, x.gather(-1, indices), x.sort(-1).values[..., ::2]], -1)
        a, b = x.split([4, 6], -1)
        a = torch.stack([a, a], 1).view(count, -1) + torch.div(a.sum(), 3, rounding_mode="floor")
        b = b.repeat(1, 2, 1).reshape(count * 2, -1)[:count] + torch.bmm(b, b.mT).flatten(1).norm(dim=1, keepdim=True)
        onehot = F.one_hot(b.argmax(1) % 5, 5).float()
        return torch.hstack([a, b, onehot, torch.nan_to_num(torch.linalg.vector_norm(a, dim=1, keepdim=True))])


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in (Convolutions, Tokens, Recurrent)]


@pytest.mark.parametrize("kind", [Activations, Signal, Shapes, *SLOW])
def test_ordinary_networks_survive_a_round_trip_through_a_graph(tmp_path, kind):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = kind()
    x = torch.randn(3, 1, 8, 8)
    network.eval()
    expected = network(x)
    save_program(network, (1, 8, 8), tmp_path / "model.pt2")
    torch.testing.assert_close(load_program(tmp_path / "model.pt2")(x), expected)


def test_every_allowed_operator_exists():
    assert not [name for name in ATEN if not hasattr(torch.ops.aten, name)]


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten._print.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten._reshape_alias.default",
        "torch.ops.aten._weight_norm_interface.default",
        "torch.ops.aten.native_batch_norm.default",
        "torch.ops.aten.repeat_interleave.Tensor",
        "torch.ops.aten.add.out",
        "torch.ops.prim.device.default",
        "torch.ops.prims.add.default",
        "torch.ops.inductor.resize_storage_bytes_.default",
        "torch.ops.higher_order.cond",
        "torch.ops.aten.add.Tensor.__globals__",
        "torch.ops.load_library",
        "torch.load",
        "torch.os.system",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "_operator.call",
        "_operator.pow",
        "math.sqrt",
        "#ext:op",
        "",
        None,
        ["torch.ops.aten.add.Tensor"],
    ],
)
def test_other_targets_are_refused(target):
    assert not is_allowed(target)


@pytest.mark.parametrize("target", ["torch.ops.aten.relu_.default", "torch.ops.aten.__and__.Tensor", "torch.sym_max"])
def test_in_place_operators_and_sizes_are_allowed(target):
    assert is_allowed(target)
