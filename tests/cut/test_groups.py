from torch import nn

from nas_distill.cut.atoms import Atom, Atoms
from nas_distill.cut.groups import form_groups
from nas_distill.cut.plan import Slot


def joined(*units):
    atoms = Atoms()
    for unit in units:
        atoms.join(*(Atom(*atom) for atom in unit))
    return atoms


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_units_with_the_same_dimensions_are_one_group():
    units = [[("0", "out", place), ("1", "out", place), ("2", "in", place)] for place in range(4)]
    (group,) = form_groups(network(), joined(*units[::-1]), {"0": 0, "1": 1, "2": 2})
    assert (group.name, group.kind, group.size, group.block) == ("0", "channels", 4, None)
    indices = ((0,), (1,), (2,), (3,))
    assert group.slots == (Slot("0", "out", indices), Slot("1", "out", indices), Slot("2", "in", indices))


def test_units_with_others_are_groups_of_their_own_and_named_apart():
    units = [[("0", "out", place), *([("2", "in", place)] if place < 2 else [])] for place in range(4)]
    groups = form_groups(network(), joined(*units), {"0": 0, "2": 1})
    assert [(group.name, group.size) for group in groups] == [("0", 2), ("0:2", 2)]


def test_a_single_unit_and_what_nobody_makes_are_no_groups():
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
