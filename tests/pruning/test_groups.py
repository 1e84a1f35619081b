import pytest
import torch
from torch import nn

from nas_distill.pruning.graph import Channel, ChannelUnions
from nas_distill.pruning.groups import as_heads, attention_groups, form_groups
from nas_distill.pruning.plan import Group, KeptUnits, Plan, Slot
from nas_distill.pruning.surgery import prune


def joined(*units):
    unions = ChannelUnions()
    for unit in units:
        unions.join(*(Channel(*channel) for channel in unit))
    return unions


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_units_with_the_same_dimensions_are_one_group():
    units = [[("0", "out", place), ("1", "out", place), ("2", "in", place)] for place in range(4)]
    (group,) = form_groups(network(), joined(*units[::-1]), {"0": 0, "1": 1, "2": 2})
    assert (group.name, group.kind, group.size, group.block) == ("0", "channels", 4, None)
    indices = ((0,), (1,), (2,), (3,))
    assert group.slots == (Slot("0", "out", indices), Slot("1", "out", indices), Slot("2", "in", indices))


def test_units_with_other_dimensions_are_other_groups_with_unique_names():
    units = [[("0", "out", place), *([("2", "in", place)] if place < 2 else [])] for place in range(4)]
    groups = form_groups(network(), joined(*units), {"0": 0, "2": 1})
    assert [(group.name, group.size) for group in groups] == [("0", 2), ("0:2", 2)]


def test_single_units_and_units_without_a_maker_are_not_groups():
    units = [[("0", "out", place) for place in range(4)], [("2", "in", 0)], [("2", "in", 1)]]
    assert form_groups(network(), joined(*units), {}) == []


def test_the_first_of_several_makers_gives_the_name():
    units = [[("2", "out", place), ("0", "out", place)] for place in range(2)]
    assert form_groups(network(), joined(*units), {"0": 0, "2": 1})[0].name == "0"


def test_inputs_of_grouped_convolutions_are_left_out():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4))
    units = [
        [("0", "out", unit), ("1", "in", unit), ("1", "out", 2 * unit), ("1", "out", 2 * unit + 1)] for unit in range(4)
    ]
    (group,) = form_groups(module, joined(*units), {"0": 0, "1": 1})
    assert [(slot.module, slot.side) for slot in group.slots] == [("0", "out"), ("1", "out")]
    assert group.slots[1].indices == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_linear_layers_make_neurons():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    units = [[("0", "out", place), ("1", "in", place)] for place in range(4)]
    assert form_groups(module, joined(*units), {"0": 0, "1": 1})[0].kind == "neurons"


WIDTH, HEADS, EACH = 12, 3, 4


class Wrapped(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.part = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x):
        return self.part(x, x, x, need_weights=False)[0]


def tokens():
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


def test_the_indices_of_a_head_cover_its_computation():
    """Attention of head 1 equals that of all heads if the output projection reads only head 1."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = Wrapped().eval().requires_grad_(False)
    (group,) = attention_groups(module)
    assert (group.name, group.kind, group.size, group.block) == ("part", "heads", HEADS, None)
    module.part.out_proj.weight[:, [*range(EACH), *range(2 * EACH, 3 * EACH)]] = 0
    wanted = module(tokens())
    assert float((wanted - module.part.out_proj.bias).abs().max()) > 1e-3
    narrowed = prune(module, Plan((group,), (), ()), KeptUnits({"part": (1,)}))
    torch.testing.assert_close(narrowed(tokens()), wanted)
    assert narrowed.part.out_proj.in_features == EACH


def test_each_row_and_column_belongs_to_one_head():
    (group,) = attention_groups(Wrapped())
    rows, columns = (sorted(place for unit in slot.indices for place in unit) for slot in group.slots)
    assert rows == list(range(3 * WIDTH))
    assert columns == list(range(WIDTH))


@pytest.mark.parametrize("module", [Wrapped(kdim=8), nn.MultiheadAttention(12, 1), nn.Linear(12, 12)])
def test_separate_projections_and_single_heads_have_no_head_groups(module):
    assert attention_groups(module) == []


class Holder(nn.Module):
    def __init__(self, inner, **counts):
        super().__init__()
        self.inner = inner
        for name, value in counts.items():
            setattr(self, name, value)


def neurons(name, size=6, run=1):
    indices = tuple(tuple(range(unit * run, (unit + 1) * run)) for unit in range(size))
    return Group(name, "neurons", size, (Slot(name, "out", indices),), None)


def test_neurons_of_a_module_with_a_number_of_heads_become_heads():
    module = nn.Sequential(Holder(nn.Linear(4, 6), num_heads=3))
    assert as_heads(module, neurons("0.inner")) == Group(
        "0",
        "heads",
        3,
        (Slot("0.inner", "out", ((0, 1), (2, 3), (4, 5))), Slot("0", "out", ((0,), (1,), (2,)))),
        None,
    )


def test_units_of_several_indices_keep_them():
    module = nn.Sequential(Holder(nn.Linear(4, 12), num_heads=3))
    group = as_heads(module, neurons("0.inner", run=2))
    assert group is not None
    assert group.slots[0].indices == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


def test_the_nearest_module_with_a_number_of_heads_counts():
    module = nn.Sequential(Holder(Holder(nn.Sequential(nn.Linear(4, 6)), n_heads=2), num_heads=3))
    group = as_heads(module, neurons("0.inner.inner.0"))
    assert group is not None
    assert (group.name, group.size) == ("0.inner", 2)


@pytest.mark.parametrize(
    "counts",
    [{}, {"num_heads": 1}, {"num_heads": 4}, {"num_heads": 6}, {"num_heads": 3, "num_key_value_heads": 1}],
    ids=["nobody says", "one head", "not as many of each", "heads of a single unit", "shared keys"],
)
def test_implausible_numbers_of_heads_are_ignored(counts):
    assert as_heads(nn.Sequential(Holder(nn.Linear(4, 6), **counts)), neurons("0.inner")) is None


def test_the_root_module_has_no_heads():
    """A model's own number of heads is a setting, not a property of one layer."""
    assert as_heads(Holder(nn.Linear(4, 6), num_heads=3), neurons("inner")) is None
