import pytest
from torch import nn

from nas_distill.cut.find import find_plan
from nas_distill.cut.graph import read_graph
from nas_distill.cut.groups import form_groups
from nas_distill.cut.plan import Group, Slot, Unpruned
from nas_distill.cut.proof import Proof, Verdict
from nas_distill.cut.proven import prove
from tests.cut.networks import SHAPE, Pooled, Residual, conv, make


def group(name, size=4):
    return Group(name, "neurons", size, (Slot(name, "out", tuple((unit,) for unit in range(size))),), None)


class Judge:
    """Stands in for a proof: knows by name what fails, and which names do not go together."""

    def __init__(self, reasons=None, apart=(), output=()):
        self.reasons, self.apart, self.output = reasons or {}, apart, output
        self.shares = []

    def of_groups(self, *groups, share=0.5):
        names = {one.name for one in groups}
        if len(groups) > 1:
            self.shares.append(share)
            return Verdict("they clash" if any(pair <= names for pair in self.apart) else None)
        (name,) = names
        return Verdict(self.reasons.get(name), name in self.output, {"block": (True, None)} if name == "a" else {})


def test_what_holds_is_kept_with_its_boundaries_and_the_rest_is_left_whole():
    judge = Judge(reasons={"b": "it breaks", "out": "its units are the network's output"}, output=("out",))
    a, c = group("a"), group("c")
    good, boundaries, whole = prove(nn.Identity(), [a, group("b"), c, group("out")], judge)
    assert good == [a, c]
    assert boundaries == {"a": {"block": (True, None)}, "c": {}}
    assert whole == [Unpruned("b", "it breaks")]  # nobody expects the output to be cut, so of it nothing is said


def test_all_are_tried_at_once_at_a_half_and_at_a_single_unit():
    judge = Judge()
    prove(nn.Identity(), [group("a"), group("b")], judge)
    assert judge.shares == [0.5, 0.01]


def test_of_two_that_clash_the_later_is_left_whole_and_others_are_not():
    a, b, c, d = (group(name) for name in "abcd")
    good, _, whole = prove(nn.Identity(), [a, b, c, d], Judge(apart=[{"a", "c"}]))
    assert good == [a, b, d]
    assert whole == [Unpruned("c", "it can be cut alone, but not beside other groups: they clash")]


def test_nothing_proposed_proves_nothing():
    assert prove(nn.Identity(), [], Judge()) == ([], {}, [])


def attention(reasons):
    module = nn.Module()
    module.attention = nn.Module()
    module.attention.num_heads = 2
    module.attention.query, module.attention.value = nn.Linear(4, 4), nn.Linear(4, 4)
    return module, Judge(reasons={"attention.query": "it breaks", "attention.value": "so does it", **reasons})


def test_neurons_that_do_not_hold_are_tried_as_heads_once():
    module, judge = attention({})
    good, boundaries, whole = prove(module, [group("attention.query"), group("attention.value")], judge)
    assert [(one.name, one.kind, one.size) for one in good] == [("attention", "heads", 2)]
    assert list(boundaries) == ["attention"]
    assert whole == [Unpruned("attention.value", "so does it")]


def test_heads_that_do_not_hold_either_are_what_is_left_whole():
    module, judge = attention({"attention": "nor do heads"})
    assert prove(module, [group("attention.query")], judge) == ([], {}, [Unpruned("attention", "nor do heads")])


def test_heads_of_ones_own_attention_hold_where_its_neurons_do_not():
    module = make("own_attention")
    atoms = read_graph(make("own_attention"), SHAPE)[0]
    names = {name: place for place, (name, _) in enumerate(module.named_modules())}
    proposed = [one for one in form_groups(module, atoms, names) if one.name.startswith("layers.0.attention")]
    good, _, whole = prove(module, proposed, Proof(module, SHAPE, {}))
    assert {one.kind for one in proposed} == {"neurons"}
    assert [(one.name, one.kind, one.size) for one in good] == [("layers.0.attention", "heads", 4)]
    assert whole == []


class Fixed(nn.Module):
    """Keeps its width as a number in its code, so that what comes before it cannot be cut."""

    def forward(self, x):
        return x.reshape(-1, 8, 8, 8)


@pytest.mark.parametrize("bad", [None, 3])
def test_groups_proven_many_at_a_time_are_those_proven_one_by_one(monkeypatch, bad):
    def block(index):
        inside = [conv(16, 8), Fixed()] if index == bad else [conv(16, 8)]
        return Residual(nn.Sequential(*inside, conv(8, 12), conv(12, 16)))

    module = Pooled(conv(3, 16), [block(index) for index in range(6)], 16)
    runs = []
    of_groups = Proof.of_groups
    monkeypatch.setattr(Proof, "of_groups", lambda *args, **options: runs.append(args) or of_groups(*args, **options))
    together = find_plan(module, SHAPE)
    many = len(runs)
    monkeypatch.setattr("nas_distill.cut.proven._settled", lambda *_: set())
    assert find_plan(module, SHAPE) == together
    assert bad is not None or many < len(runs) - many
    assert len(together.unpruned) == (bad is not None)
