from __future__ import annotations

import itertools
import json

import pytest

from nas_distill.blockwise import alternatives as module
from nas_distill.blockwise.alternatives import Alternative, Alternatives
from nas_distill.utils.errors import ConfigError, SpaceError


def consistent(found: Alternatives, limit: int = 200):
    """Yield some choices of one alternative per block that agree on the shared widths, with these widths."""
    blocks = range(len(found.plan.blocks))
    for chosen in itertools.islice(itertools.product(*(found.of_block(block) for block in blocks)), 20000):
        widths: dict[str, int] = {}
        if all(
            widths.setdefault(group, width) == width for one in chosen for group, width in found.widths(one).items()
        ):
            yield chosen, widths
            limit -= 1
            if not limit:
                return


@pytest.mark.parametrize("name", ["residual", "mobile", "transformer", "grouped norms", "concatenating"])
def test_each_consistent_choice_is_an_architecture_and_is_recovered_from_it(make_case, name):
    case = make_case(name)
    found = case.alternatives()
    choices = list(consistent(found))
    assert len(choices) > 1
    for chosen, widths in choices:
        cut = found.cut(chosen, widths)
        architecture = case.space.validate(case.cuts.encode(cut).to_dict())
        assert found.of_cut(case.cuts.decode(architecture)) == list(chosen)


def test_with_a_depth_order_dropped_blocks_have_no_parameters(make_case):
    case = make_case("residual", numbered=True)
    found = case.alternatives()
    assert found.space.depth_order == (1, 0)
    first, second = (
        {one.replacement: one for one in found.of_block(block) if one.input in (8, None) and one.output in (8, None)}
        for block in (0, 1)
    )
    last = next(one for one in found.of_block(2) if one.input == 8)
    for chosen, depth in (([first["whole"], second["whole"], last], 2), ([first["whole"], second["drop"], last], 1)):
        widths = {name: width for one in chosen for name, width in found.widths(one).items()}
        architecture = case.cuts.encode(found.cut(chosen, widths))
        assert case.space.validate(architecture.to_dict()).to_dict()["depth"] == depth
        assert found.of_cut(case.cuts.decode(architecture)) == chosen


def test_widths_are_the_least_allowed_ones_at_or_above_the_shares(residual):
    found = residual.alternatives()
    assert found.shared == {"stem.0": (4, 8), "blocks.2.body.3": (8, 16)}
    assert {one.inner for one in found.of_block(2) if one.replacement == "whole"} == {(4,), (16,)}
    assert {(one.input, one.output) for one in found.of_block(2)} == {(4, 8), (4, 16), (8, 8), (8, 16)}
    assert {(one.input, one.output) for one in found.of_block(0)} == {(4, 4), (8, 8)}
    assert [one.replacement for one in found.of_block(0)].count("drop") == 2  # it has no inner widths
    keys = [one.key for one in found.entries]
    assert len(set(keys)) == len(keys)
    assert Alternative(0, "whole", 4, 4, (4, 8)).key == "block0-whole-in4-out4-4x8"


def test_groups_that_are_not_all_of_a_boundarys_channels_stay_whole(make_case):
    found = make_case("concatenating").alternatives()
    assert {name: len(widths) for name, widths in found.shared.items()} == {
        group.name: 1 if group.name in ("stem", "blocks.0.body.2", "blocks.1.body.2") else 2
        for group in found.plan.shared
    }
    with pytest.raises(SpaceError, match=r"cannot prune group 'stem'.*add 1.0 to the space's widths"):
        make_case("concatenating", widths=(0.5,)).alternatives()


def test_groups_that_something_outside_of_the_blocks_reads_are_known(make_case):
    read = {name: list(make_case(name).alternatives().read_outside()) for name in ("residual", "transformer")}
    assert read == {"residual": ["blocks.2.body.3"], "transformer": ["embed"]}
    # The last convolution reads the blocks' width, and the classifier its own, at which no block ends.
    assert make_case("mobile").alternatives().read_outside() == {"blocks.1.body.7": (8, 16), "features.0": (16, 32)}


def test_it_is_the_same_after_json(make_case):
    found = make_case("mobile", numbered=True).alternatives()
    assert Alternatives.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_more_than_anybody_waits_for_are_refused_before_anything_trains(residual, monkeypatch):
    monkeypatch.setattr(module, "MAX_ALTERNATIVES", 10)
    with pytest.raises(ConfigError, match=r"the 3 blocks have 28 alternatives, more than the limit of 10; give fewer"):
        residual.alternatives()
