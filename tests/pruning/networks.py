"""Small networks of many architectures, each (B, 3, 8, 8) -> (B, 5)."""

import copy
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nas_distill.data import Dataset
from nas_distill.models import mbconv, resnet
from nas_distill.pruning.discovery import find_plan

SHAPE, CLASSES = (3, 8, 8), 5


def conv(inputs, outputs, stride=1, groups=1, kernel=3, norm=nn.BatchNorm2d, act=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm(outputs), act()
    )


class Pooled(nn.Module):
    """Stem, blocks, mean over pixels, classifier."""

    def __init__(self, stem, blocks, width):
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, body, shortcut=None, act=None):
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x):
        return self.act(self.body(x) + self.shortcut(x))


def sequential():
    """A chain of layers without blocks."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


class Flattening(nn.Module):
    """Plain blocks, then flattened into two linear layers, as in VGG."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 24), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(24 * 4, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, CLASSES))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def residual():
    return resnet.build(
        stem=16, stages=[{"depth": 2, "width": 16}, {"depth": 2, "width": 24}], input_shape=SHAPE, num_classes=CLASSES
    )


def bottleneck():
    stages = [{"depth": 1, "width": 32, "block": "bottleneck"}, {"depth": 2, "width": 64, "block": "bottleneck"}]
    return resnet.build(stem=16, stages=stages, input_shape=SHAPE, num_classes=CLASSES)


def mobile():
    """Inverted residuals with squeeze-excitation."""
    stages = [{"depth": 1, "width": 16, "expansion": 1}, {"depth": 2, "width": 24, "expansion": 2, "se": True}]
    return mbconv.build(stem=16, stages=stages, head=32, input_shape=SHAPE, num_classes=CLASSES)


def depthwise():
    """Depthwise and pointwise convolutions; the second depthwise one has two outputs per input."""
    blocks = [
        nn.Sequential(conv(16, 16, groups=16), conv(16, 24, kernel=1)),
        nn.Sequential(conv(24, 48, stride=2, groups=24), conv(48, 24, kernel=1)),
    ]
    return Pooled(conv(3, 16), blocks, 24)


def grouped():
    """Grouped convolutions, as in ResNeXt."""
    body = nn.Sequential(conv(16, 32, kernel=1), conv(32, 32, groups=8), conv(32, 16, kernel=1))
    return Pooled(conv(3, 16), [Residual(body), conv(16, 24, stride=2)], 24)


class Dense(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, growth, 3, padding=1))

    def forward(self, x):
        return torch.cat([x, self.body(x)], 1)


def concatenating():
    """Blocks that append their channels to their inputs, as in DenseNet."""
    return Pooled(conv(3, 16), [Dense(16, 8), Dense(24, 8), conv(32, 16, stride=2)], 16)


class Fire(nn.Module):
    """Two parallel branches, as in SqueezeNet."""

    def __init__(self, inputs, squeezed, each):
        super().__init__()
        self.squeeze = conv(inputs, squeezed, kernel=1)
        self.small, self.large = conv(squeezed, each, kernel=1), conv(squeezed, each)

    def forward(self, x):
        x = self.squeeze(x)
        return torch.cat([self.small(x), self.large(x)], 1)


def branching():
    return Pooled(conv(3, 16), [Fire(16, 8, 16), Residual(Fire(32, 8, 16)), conv(32, 16)], 16)


class ConvNext(nn.Module):
    """Depthwise convolution, layer norm over channels, two linear maps of each pixel, a layer scale."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


def layer_norm():
    return Pooled(nn.Conv2d(3, 16, 2, 2), [ConvNext(16), ConvNext(16), conv(16, 24, stride=2)], 24)


def group_norm():
    def norm(width):
        return nn.GroupNorm(8, width)

    body = nn.Sequential(conv(16, 24, norm=norm), conv(24, 16, norm=lambda width: nn.GroupNorm(1, width)))
    return Pooled(conv(3, 16, norm=norm), [Residual(body), conv(16, 24, stride=2, norm=norm)], 24)


class Gated(nn.Module):
    """Half of the channels are gates of the other half."""

    def __init__(self, width, inner):
        super().__init__()
        self.first, self.last = nn.Conv2d(width, 2 * inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        value, gate = self.first(x).chunk(2, dim=1)
        return x + self.last(value * gate.sigmoid())


def gated():
    return Pooled(conv(3, 16, act=lambda: nn.PReLU(16), norm=nn.InstanceNorm2d), [Gated(16, 16), Gated(16, 24)], 16)


class Patches(nn.Module):
    """Images to tokens, with positions and a class token."""

    def __init__(self, width):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, 5, width))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position


class Transformer(nn.Module):
    """Torch's own encoder; ``norm_first`` as in vision transformers."""

    def __init__(self, norm_first=True, batch_first=True, width=32, heads=4, depth=3):
        super().__init__()
        self.batch_first = batch_first
        self.embed = Patches(width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 48, 0.1, "gelu", batch_first=batch_first, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.embed(x)
        x = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.head(self.norm(x)[:, 0])


def transformer():
    return Transformer()


def post_norm():
    return Transformer(norm_first=False, batch_first=False, depth=2)


class Attention(nn.Module):
    """Custom attention: separate projections, and an attribute for the number of heads."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (
            part(x).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-2, -1) / self.head_dim**0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(*x.shape[:2], -1))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Own(nn.Module):
    def __init__(self, width=32, heads=4):
        super().__init__()
        self.embed = Patches(width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(2))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Mixing(nn.Module):
    """MLP-Mixer: linear maps over tokens, then over channels."""

    def __init__(self, tokens, width):
        super().__init__()
        self.norm1, self.tokens = (
            nn.LayerNorm(width),
            nn.Sequential(nn.Linear(tokens, 8), nn.GELU(), nn.Linear(8, tokens)),
        )
        self.norm2 = nn.LayerNorm(width)
        self.channels = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(Mixing(4, width), Mixing(4, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.blocks(self.patch(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


class Shuffle(nn.Module):
    """A channel shuffle of four groups."""

    def forward(self, x):
        b, c, h, w = x.shape
        return x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)


def shuffling():
    body = nn.Sequential(conv(16, 16, kernel=1, groups=4), Shuffle(), conv(16, 16, groups=16), conv(16, 16, kernel=1))
    return Pooled(conv(3, 16), [Residual(body), conv(16, 24)], 24)


class Recurrent(nn.Module):
    """Convolutions whose maps a recurrent layer reads column by column, as for text lines or spectrograms."""

    def __init__(self, columns=lambda x: x.permute(0, 3, 1, 2).flatten(2), layer=nn.GRU, inputs=24 * 4):
        super().__init__()
        self.features = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 24))
        self.columns = columns
        self.recurrent = layer(inputs, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        made, _ = self.recurrent(self.columns(self.features(x)))
        return self.head(made.mean(1))


class Padding(nn.Module):
    """Every second pixel, padded with channels of zeros: the shortcut of CIFAR's residual networks (option A)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def padding(more):
    return Padding(lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more)))


def padded():
    """Not among the others, since the convolution that replaces its shortcut has costs."""
    body = nn.Sequential(conv(16, 32, 2), conv(32, 32, act=nn.Identity))
    blocks = [Residual(conv(16, 16)), Residual(body, padding(8), nn.ReLU()), Residual(conv(32, 32))]
    return Pooled(conv(3, 16), blocks, 32)


NETWORKS = {
    "sequential": sequential,
    "flattening": Flattening,
    "residual": residual,
    "bottleneck": bottleneck,
    "mobile": mobile,
    "depthwise": depthwise,
    "grouped": grouped,
    "concatenating": concatenating,
    "branching": branching,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "gated": gated,
    "transformer": transformer,
    "post_norm": post_norm,
    "own_attention": Own,
    "mixer": Mixer,
    "shuffling": shuffling,
    "recurrent": Recurrent,
}


def make(name, seed=0):
    """Return the named network in eval mode, with weights and statistics drawn by ``seed``."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        module = NETWORKS[name]()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    return module.eval().requires_grad_(False)


@cache
def _planned(name):
    module = make(name)
    return module, find_plan(module, SHAPE)


def planned(name):
    """Return a copy of the named network, and its plan, which is found once."""
    module, plan = _planned(name)
    return copy.deepcopy(module), plan


def images(count=2, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def data_of(shape, count=300, seed=0):
    """Return noise of that shape with as many classes as the networks have."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1.0, (count, *shape)).astype(np.float32)
    return Dataset.from_tensors(x, np.arange(count) % CLASSES, val=0.1)
