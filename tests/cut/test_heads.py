import pytest
import torch
from torch import nn

from nas_distill.cut.heads import as_heads, attention_groups
from nas_distill.cut.plan import Group, KeptUnits, Plan, Slot
from nas_distill.cut.surgery import prune

WIDTH, HEADS, EACH = 12, 3, 4


class Wrapped(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.part = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x):
        return self.part(x, x, x, need_weights=False)[0]


def tokens():
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


def test_the_places_of_a_head_are_all_that_it_computes_with():
    """Attention of head 1 alone is that of all heads where the output projection reads no other."""
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


def test_every_row_and_column_is_of_one_head():
    (group,) = attention_groups(Wrapped())
    rows, columns = (sorted(place for unit in slot.indices for place in unit) for slot in group.slots)
    assert rows == list(range(3 * WIDTH))
    assert columns == list(range(WIDTH))


@pytest.mark.parametrize("module", [Wrapped(kdim=8), nn.MultiheadAttention(12, 1), nn.Linear(12, 12)])
def test_no_heads_where_projections_are_apart_or_there_is_one(module):
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


def test_neurons_of_a_module_that_says_its_heads_are_taken_head_by_head():
    module = nn.Sequential(Holder(nn.Linear(4, 6), num_heads=3))
    assert as_heads(module, neurons("0.inner")) == Group(
        "0",
        "heads",
        3,
        (Slot("0.inner", "out", ((0, 1), (2, 3), (4, 5))), Slot("0", "out", ((0,), (1,), (2,)))),
        None,
    )


def test_units_of_several_places_keep_them_together():
    module = nn.Sequential(Holder(nn.Linear(4, 12), num_heads=3))
    group = as_heads(module, neurons("0.inner", run=2))
    assert group is not None
    assert group.slots[0].indices == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


def test_the_nearest_module_that_says_so_holds():
    module = nn.Sequential(Holder(Holder(nn.Sequential(nn.Linear(4, 6)), n_heads=2), num_heads=3))
    group = as_heads(module, neurons("0.inner.inner.0"))
    assert group is not None
    assert (group.name, group.size) == ("0.inner", 2)


@pytest.mark.parametrize(
    "counts",
    [{}, {"num_heads": 1}, {"num_heads": 4}, {"num_heads": 6}, {"num_heads": 3, "num_key_value_heads": 1}],
    ids=["nobody says", "one head", "not as many of each", "heads of a single unit", "shared keys"],
)
def test_no_heads_are_made_up(counts):
    assert as_heads(nn.Sequential(Holder(nn.Linear(4, 6), **counts)), neurons("0.inner")) is None


def test_the_network_itself_holds_no_attention():
    """Models keep a number of heads as a setting of theirs, which is that of no single layer."""
    assert as_heads(Holder(nn.Linear(4, 6), num_heads=3), neurons("inner")) is None
