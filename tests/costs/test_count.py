import pytest
import torch
from torch import nn

from nas_distill.costs.counting import count
from nas_distill.costs.registry import counted_names
from nas_distill.costs.undisturbed import undisturbed
from nas_distill.utils.errors import BudgetError, BuildError, CostError

torch.set_num_threads(1)


class Residual(nn.Module):
    """Residual block, whose input is needed until the addition."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def peak(model, shape, **options):
    return count(model, shape, ["peak_activation_bytes"], **options)["peak_activation_bytes"]


def test_parameters_are_counted_trained_or_frozen_and_buffers_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].weight.requires_grad_(False)

    assert count(model, (3,), ["params"]) == {"params": 3 * 4 + 4 + 8}


def test_weight_bytes_are_those_of_the_saved_state():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).half()
    model.register_buffer("passing", torch.zeros(100), persistent=False)

    # Half precision: weights, scale, shift and statistics; the counter of batches is one int64.
    assert count(model, (3, 8, 8), ["weight_bytes"]) == {"weight_bytes": 2 * (108 + 4 + 4 * 4) + 8}


def test_shared_weights_count_once():
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    model[1].weight = model[0].weight

    assert count(model, (5,), ["params", "weight_bytes"]) == {"params": 25, "weight_bytes": 100}


def test_weights_without_memory_have_a_size():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))

    assert count(model, (5,)) == {"params": 60, "flops": 50, "weight_bytes": 240, "peak_activation_bytes": 40}


def test_the_peak_of_a_chain_is_its_largest_pair_of_neighbours():
    model = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 50), nn.Linear(50, 5))

    assert peak(model, (10,)) == 4 * (100 + 50)


def test_a_skip_is_alive_until_it_is_added():
    plain = nn.Sequential(nn.Linear(10, 40), nn.Linear(40, 30), nn.Linear(30, 10))

    assert peak(plain, (10,)) == 4 * (40 + 30)
    assert peak(Residual(plain), (10,)) == 4 * (10 + 40 + 30)


def test_a_residual_network_matches_a_count_by_hand():
    block = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
    )
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Residual(block), nn.ReLU())

    # Three maps of 8 channels: the skip connection, and input and output of the second convolution.
    assert peak(model, (1, 6, 6)) == 3 * 8 * 36 * 4


@pytest.mark.parametrize("inplace", [False, True])
def test_activation_functions_count_as_in_place_in_any_case(inplace):
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(inplace), nn.Hardswish(inplace), nn.Linear(32, 2))

    assert peak(model, (4,)) == 4 * (32 + 4)


def test_tensors_that_are_needed_again_are_not_overwritten():
    def gate(x):
        hidden = x * 2
        return hidden * torch.sigmoid(hidden)

    def chain(x):
        return torch.sigmoid(torch.sigmoid(x * 2))

    # The caller's input, and the hidden map, which the sigmoid must not overwrite.
    assert peak(Call(gate), (10,)) == 4 * 20
    assert peak(Call(chain), (10,)) == 4 * 20
    assert peak(Residual(nn.Sequential(nn.Linear(10, 10), nn.Sigmoid())), (10,)) == 4 * 20
    assert peak(Residual(Call(gate)), (10,)) == 4 * 30


def test_the_input_is_not_overwritten():
    assert peak(nn.ReLU(), (10,)) == 80


def test_views_share_memory_and_copies_do_not():
    def view(x):
        return x.flatten(1).unsqueeze(0).transpose(1, 2).chunk(2, 1)[0]

    def copy(x):
        return x.transpose(1, 2).contiguous()

    def copy_by_reshape(x):
        return x.transpose(1, 2).reshape(1, -1)

    assert peak(Call(view), (6, 4)) == 4 * 24
    assert peak(Call(copy), (6, 4)) == 4 * 48
    assert peak(Call(copy_by_reshape), (6, 4)) == 4 * 48


def test_concatenation_needs_its_parts_and_its_result():
    def dense(x):
        return torch.cat([x, torch.tanh(x)], dim=1)

    assert peak(Call(dense), (10,)) == 4 * (10 + 10 + 20)


def test_parts_of_a_split_keep_the_whole_alive():
    def half(x):
        first, _ = torch.split(x + 1, 5, dim=1)
        return first.sum(1) + x.sum(1)

    assert peak(Call(half), (10,)) == 4 * (10 + 10 + 1)


def test_writing_into_zeros_makes_an_activation():
    def shift(x):
        out = torch.zeros(1, 10)
        out[:, 1:] = x[:, :-1]
        return out * 3

    assert peak(Call(shift), (10,)) == 4 * 20


def test_results_stay_alive():
    def both(x):
        small = x.sum(1)
        return {"small": small, "large": [torch.cat([x, x], 1), torch.cat([x, x, x], 1)]}

    assert peak(Call(both), (10,)) == 4 * (10 + 1 + 20 + 30)


def test_arithmetic_on_shapes_takes_no_memory():
    assert peak(Call(lambda x: x.view(x.shape[0] * 2, x.shape[1] // 2)), (10,)) == 40


def test_tensors_computed_only_from_weights_are_not_activations():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(1000))

        def forward(self, x):
            return x + torch.tanh(self.table)[:10]

    assert peak(Positions(), (10,)) == 80


def test_half_precision_counts_as_float32_and_integers_by_their_own_size():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))

    assert peak(nn.Linear(10, 5).half(), (10,)) == 60
    assert peak(model, (3,), dtype=torch.int64) == max(3 * 8 + 12 * 4, 12 * 4 + 2 * 4)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(nn.Conv2d(3, 4, 3), (3, 8, 8)), (nn.Conv1d(3, 4, 3), (3, 9)), (nn.LSTM(3, 4), (6, 3)), (nn.Linear(9, 2), (9,))],
)
def test_inputs_of_any_rank(model, shape):
    costs = count(model, shape)

    assert tuple(costs) == counted_names()
    assert all(value > 0 for value in costs.values())


def test_only_named_costs_are_counted_in_that_order():
    broken = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 6))

    assert list(count(broken, (3,), ["weight_bytes", "params"])) == ["weight_bytes", "params"]


def test_a_failing_forward_is_reported_with_its_shape_in_one_sentence():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(17, 2))

    with pytest.raises(BuildError, match=r"forward fails on an input of shape \(1, 3, 8, 8\)") as caught:
        count(model, (3, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_forward_that_runs_but_cannot_be_recorded_is_a_cost_error():
    def with_gradients(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad((x**2).sum(), x)[0]

    with pytest.raises(CostError, match="cannot be recorded"):
        count(Call(with_gradients), (3,))


def test_tensors_that_a_model_stores_during_counting_can_be_trained_with():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.table = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.arange(3.0)
            return x + self.scale * self.table

    model = Positions()
    count(model, (3,))

    model(torch.zeros(1, 3)).sum().backward()

    assert torch.equal(model.scale.grad, torch.arange(3.0))


def test_writing_through_a_view_makes_an_activation_of_the_whole():
    class Window(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("past", torch.zeros(1, 20))

        def forward(self, x):
            self.past[:, :10] = x
            return self.past * 2

    assert peak(Window(), (10,)) == 4 * (10 + 20)


def test_lazy_parameters_are_refused_and_stay_lazy():
    model = nn.LazyLinear(3)

    with pytest.raises(BuildError, match="lazy"):
        count(model, (5,))
    assert isinstance(model.weight, nn.UninitializedParameter)


def test_unknown_and_measured_costs_are_refused():
    with pytest.raises(BudgetError, match="did you mean 'flops'"):
        count(nn.Linear(3, 3), (3,), ["flop"])
    with pytest.raises(CostError, match="latency_ms"):
        count(nn.Linear(3, 3), (3,), ["latency_ms"])


class Counting(nn.Module):
    """Module that counts calls in a buffer, draws from the global generator, and replaces another buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach()[0] + torch.rand(3)
        return x * 2


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_generator_are_left_as_they_were(fails):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), Counting())
    if fails:
        model.append(nn.Linear(7, 7))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identities = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    modes = [module.training for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)

    if fails:
        with pytest.raises(BuildError):
            count(model, (3,))
    else:
        count(model, (3,))

    assert torch.equal(torch.rand(4), expected)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert identities == {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    assert modes == [module.training for module in model.modules()]
    assert hooks == [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    assert torch.is_grad_enabled()
    assert model[0].bias.requires_grad
    assert model[0].bias.grad is None


def test_dropout_is_off_and_a_train_method_is_not_called():
    class Loud(nn.Module):
        def train(self, mode=True):
            raise AssertionError("the mode is a flag here, not a call")

        def forward(self, x):
            assert not self.training
            return x + 1

    assert peak(Loud(), (3,)) == 24


def test_nothing_is_printed_or_logged(capfd, caplog):
    def branching(x):
        return x + 1 if bool(x.sum() > 1e9) else x - 1  # the tracer warns about this

    count(Call(branching), (3,))

    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_block_is_restored_when_it_raises():
    model = nn.Linear(2, 2).train()

    def fail():
        with undisturbed(model):
            assert not model.training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.training
