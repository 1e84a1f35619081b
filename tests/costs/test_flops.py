import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nas_distill.costs.counting import count
from nas_distill.costs.flops import fvcore_flops, is_uncounted
from nas_distill.costs.undisturbed import undisturbed
from nas_distill.spaces.catalog import load_space, names
from nas_distill.utils.errors import CostError

torch.set_num_threads(1)


class Call(nn.Module):
    """A module from a function, with parameters that the function may use."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([torch.randn(shape) for shape in shapes])

    def forward(self, x):
        return self.function(x, *self.weights)


class Attention(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return torch.relu(x @ weight)


def heads(x):
    return x.view(1, x.shape[1], 4, -1).transpose(1, 2)


def flops(model, shape):
    return count(model, shape, ["flops"])["flops"]


def by_torch(model, shape):
    data = torch.zeros(1, *shape)
    with undisturbed(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(data)
    total = counter.get_total_flops()
    assert total % 2 == 0
    return total // 2


SAME_AS_TORCH = {
    "linear": (nn.Linear(7, 5), (7,)),
    "linear on a sequence": (nn.Linear(7, 5, bias=False), (3, 7)),
    "conv1d": (nn.Conv1d(3, 4, 3), (3, 11)),
    "conv2d": (nn.Conv2d(3, 8, 3, padding=1), (3, 9, 7)),
    "conv2d with stride and dilation": (nn.Conv2d(3, 8, 3, stride=2, dilation=2), (3, 13, 13)),
    "grouped conv2d": (nn.Conv2d(6, 9, 3, groups=3), (6, 8, 8)),
    "depthwise conv2d": (nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 8, 8)),
    "conv2d padded same": (nn.Conv2d(3, 4, 4, padding="same"), (3, 9, 9)),
    "conv2d padded by reflection": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 9, 9)),
    "conv3d": (nn.Conv3d(2, 4, 3), (2, 5, 6, 7)),
    "transposed conv": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 5, 5)),
    "grouped transposed conv": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5)),
    "transposed conv1d": (nn.ConvTranspose1d(4, 6, 4, stride=2), (4, 9)),
    "matmul": (Call(torch.matmul, (7, 3)), (5, 7)),
    "matmul broadcast over the first": (Call(lambda x, w: w @ x, (3, 7)), (4, 7, 5)),
    "matmul broadcast over both": (Call(torch.matmul, (6, 1, 4, 5)), (2, 3, 4)),
    "bmm": (Call(lambda x: torch.bmm(x, x.transpose(1, 2))), (3, 7)),
    "baddbmm": (Call(lambda x, b: torch.baddbmm(b, x, x.transpose(1, 2)), (1, 3, 3)), (3, 7)),
    "addmm": (Call(lambda x, b, w: torch.addmm(b, x, w), (5,), (7, 5)), (7,)),
    "einsum with batch": (Call(lambda x, w: torch.einsum("bhd,hdk->bhk", x, w), (3, 4, 5)), (3, 4)),
    "einsum of three": (Call(lambda x, a, b: torch.einsum("bi,ij,jk->bk", x, a, b), (4, 5), (5, 6)), (4,)),
    "einsum with an outer product": (Call(lambda x, w: torch.einsum("bi,j->bij", x, w), (3,)), (4,)),
    "einsum that sums first": (Call(lambda x, w: torch.einsum("bij,jk->bk", x, w), (4, 5)), (3, 4)),
    "tensordot": (Call(lambda x, w: torch.tensordot(x, w, dims=2), (3, 4, 5)), (3, 4)),
    "attention with weights": (Attention(True), (5, 16)),
    "attention without weights": (Attention(False), (5, 16)),
    "scaled dot product": (Call(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)), (2, 5, 8)),
    "causal attention": (
        Call(lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)),
        (2, 5, 8),
    ),
    "cross attention": (
        Call(lambda x, k, v: nn.functional.scaled_dot_product_attention(x, k, v), (1, 2, 9, 8), (1, 2, 9, 6)),
        (2, 5, 8),
    ),
    "transformer layer": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (5, 16)),
    "transformer": (
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True), 2, enable_nested_tensor=False
        ),
        (6, 16),
    ),
    "transformer decoder layer": (
        Call(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True).eval(), (1, 7, 16)),
        (5, 16),
    ),
    "a product of weights": (Call(lambda x, a, b: x @ (a @ b), (4, 5), (5, 6)), (4,)),
    "an autograd function": (Call(Product.apply, (7, 5)), (3, 7)),
    "nothing": (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), (3, 8, 8)),
    "norms": (nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm([4, 4])), (4, 4, 4)),
}


@pytest.mark.parametrize("name", SAME_AS_TORCH)
def test_flops_are_half_of_what_torch_counts(name):
    model, shape = SAME_AS_TORCH[name]

    assert flops(model, shape) == by_torch(model, shape)


@pytest.mark.parametrize("name", names())
def test_shipped_networks_count_as_torch_counts(name):
    space = load_space(name)
    rng = np.random.default_rng(0)

    for architecture in [space.smallest(), space.largest(), space.sample(rng), space.sample(rng)]:
        model = space.build(architecture, input_shape=(3, 16, 12), num_classes=7)
        assert flops(model, (3, 16, 12)) == by_torch(model, (3, 16, 12)) > 0


@pytest.mark.parametrize("name", names())
def test_shipped_networks_count_as_fvcore_counts(name):
    space = load_space(name)
    rng = np.random.default_rng(1)

    for architecture in [space.smallest(), space.largest(), space.sample(rng)]:
        model = space.build(architecture, input_shape=(3, 16, 12), num_classes=7)
        counted, left_out = fvcore_flops(model, (3, 16, 12))
        assert flops(model, (3, 16, 12)) == counted > 0
        assert not {name for name in left_out if "conv" in name or "mm" in name or "linear" in name}


def test_fvcore_names_what_it_leaves_out():
    attention = Call(lambda x: nn.functional.scaled_dot_product_attention(x, x, x))

    assert fvcore_flops(attention, (2, 5, 8)) == (0, {"aten::scaled_dot_product_attention"})
    assert flops(attention, (2, 5, 8)) == 2 * 5 * 5 * (8 + 8)


def test_attention_matches_a_count_by_hand():
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    projections = 5 * 16 * (3 * 16) + 5 * 16 * 16
    products = 2 * 4 * 5 * 5 * (16 // 4)
    feed_forward = 2 * 5 * 16 * 32
    assert flops(model, (5, 16)) == projections + products + feed_forward


def test_the_fast_path_of_torch_is_off_while_counting_and_restored():
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    assert torch.backends.mha.get_fastpath_enabled()

    in_eval = flops(model, (5, 16))

    assert torch.backends.mha.get_fastpath_enabled()
    assert in_eval == flops(model.train(), (5, 16)) > 0


@pytest.mark.parametrize(
    ("model", "gates"),
    [
        (nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True), 4),
        (nn.GRU(4, 6, 2, bidirectional=True, batch_first=True), 3),
        (nn.RNN(4, 6, 2, bidirectional=True, batch_first=True), 1),
    ],
)
def test_recurrent_layers_count_each_gate_at_each_step(model, gates):
    steps, inputs, hidden = 7, 4, 6
    first = inputs + hidden
    second = 2 * hidden + hidden

    assert flops(model, (steps, inputs)) == 2 * steps * gates * hidden * (first + second)


def test_an_lstm_with_projections_is_counted():
    steps, inputs, hidden, projected = 7, 4, 6, 3
    model = nn.LSTM(inputs, hidden, proj_size=projected, batch_first=True)

    assert flops(model, (steps, inputs)) == steps * (4 * hidden * (inputs + projected) + hidden * projected)


def test_a_recurrent_cell_is_counted():
    assert flops(Call(nn.LSTMCell(4, 6)), (4,)) == 4 * 6 * (4 + 6)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (Call(lambda x, w: x @ w, (7,)), (5, 7), 35),
        (Call(lambda x, w: torch.mv(x[0], w), (7,)), (5, 7), 35),
        (Call(lambda x, w: torch.dot(x[0], w), (7,)), (7,), 7),
        (Call(nn.Bilinear(3, 4, 5), (1, 4)), (3,), 5 * 4 * (3 + 1)),
        (Call(lambda x, w: torch.cdist(x, w), (6, 7)), (5, 7), 5 * 6 * 7),
    ],
)
def test_products_that_torch_does_not_count_are_counted(model, shape, expected):
    assert flops(model, shape) == expected


def test_grouped_queries_count_the_heads_of_the_query():
    def attend(x, key):
        return nn.functional.scaled_dot_product_attention(x, key, key, enable_gqa=True)

    assert flops(Call(attend, (1, 2, 9, 8)), (4, 5, 8)) == 4 * 5 * 9 * (8 + 8)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: torch.linalg.inv(x @ x.transpose(1, 2)), "aten::linalg_inv"),
        (lambda x: torch.fft.rfft2(x).real, "aten::fft_rfft2"),
        (lambda x: torch.linalg.svdvals(x), "aten::linalg_svdvals"),
    ],
)
def test_heavy_work_without_a_handler_is_refused_and_named(function, kind):
    with pytest.raises(CostError, match=f"{kind} in this model is unknown"):
        flops(Call(function), (4, 4))


def test_uncounted_work_is_an_error_only_for_flops():
    model = Call(lambda x: torch.linalg.svdvals(x))

    assert count(model, (4, 4), ["params", "peak_activation_bytes"]) == {"params": 0, "peak_activation_bytes": 80}


def test_unknown_operations_of_other_libraries_are_not_counted_as_0():
    assert is_uncounted("torchvision::deform_conv2d")
    assert is_uncounted("quantized::linear")
    assert is_uncounted("aten::_transformer_encoder_layer_fwd")
    assert not is_uncounted("aten::relu")
    assert not is_uncounted("aten::linalg_vector_norm")


def test_scripted_code_is_counted():
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(square)

    assert flops(Call(scripted), (3, 3)) == 27


def square(x: torch.Tensor) -> torch.Tensor:
    return x @ x
