import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.utils.errors import TrainingError
from nas_distill.utils.layers import Layer, Pair, describe_pairs, match_layers, pairs_by_name


def maps(*sizes):
    return [Layer(f"map{i}", (8 * (i + 1), size, size), "map") for i, size in enumerate(sizes)]


def tokens(count):
    return [Layer(f"block{i}", (16, 8), "tokens") for i in range(count)]


VECTOR = Layer("head:input", (8,), "vector")


def sizes(pairs):
    return [(pair.student.shape[1], pair.teacher.shape[1]) for pair in pairs]


def index_pairs(pairs):
    return [tuple(int(side.name.removeprefix("block")) for side in (pair.student, pair.teacher)) for pair in pairs]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([28, 14, 7], [28, 14, 7], [(28, 28), (14, 14), (7, 7)]),
        ([14, 7], [28, 14, 7], [(14, 14), (7, 7)]),
        ([28, 14, 7], [28, 7], [(28, 28), (7, 7)]),
        ([14, 7, 4], [28, 14, 7], [(14, 28), (7, 14), (4, 7)]),
        ([16, 8], [32, 15, 8], [(16, 15), (8, 8)]),
        ([16, 4], [32, 16, 8], [(16, 16), (4, 8)]),
        ([30, 15, 4], [31, 20, 14, 4], [(30, 31), (15, 14), (4, 4)]),
        ([28, 14, 7], [28, 14, 7, 4], [(28, 28), (14, 14), (7, 4)]),
        ([28], [28, 14, 7], [(28, 7)]),
        ([8, 8], [8, 8, 8], [(8, 8), (8, 8)]),
    ],
)
def test_maps_are_paired_by_resolution(student, teacher, expected):
    assert sizes(match_layers(maps(*student), maps(*teacher))) == expected
    assert sizes(match_layers(maps(*teacher), maps(*student))) == [(t, s) for s, t in expected]


def test_the_deeper_of_equally_good_maps_is_chosen():
    pairs = match_layers(maps(8, 4), maps(8, 8, 4))
    assert [pair.teacher.name for pair in pairs] == ["map1", "map2"]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (4, 12, [(0, 2), (1, 5), (2, 8), (3, 11)]),
        (3, 4, [(0, 1), (1, 2), (2, 3)]),
        (2, 2, [(0, 0), (1, 1)]),
        (1, 5, [(0, 4)]),
        (4, 2, [(1, 0), (3, 1)]),
    ],
)
def test_blocks_are_paired_by_relative_depth(student, teacher, expected):
    assert index_pairs(match_layers(tokens(student), tokens(teacher))) == expected


def test_layers_are_paired_within_their_kind_in_the_students_order():
    student, teacher = [*maps(8, 4), VECTOR], [*maps(4), *tokens(3), VECTOR]
    assert match_layers(student, teacher) == [Pair(student[1], teacher[0]), Pair(VECTOR, VECTOR)]


def test_networks_without_a_common_kind_are_refused():
    with pytest.raises(TrainingError) as error:
        match_layers(maps(8), tokens(1))
    assert "Student: map0 (map 8 x 8 x 8). Teacher: block0 (tokens 16 x 8)." in str(error.value)
    with pytest.raises(TrainingError, match=r"Student: none\. Teacher: head:input \(vector 8\)\."):
        match_layers([], [VECTOR])


SIDES = st.sampled_from([1, 2, 3, 4, 7, 8, 14, 16, 28, 32])
LAYERS = st.lists(
    st.one_of(
        st.tuples(st.just("map"), st.tuples(st.just(8), SIDES, SIDES)),
        st.tuples(st.just("tokens"), st.just((16, 8))),
        st.tuples(st.just("vector"), st.just((8,))),
    ),
    max_size=14,
).map(lambda drawn: [Layer(f"layer{i}", shape, kind) for i, (kind, shape) in enumerate(drawn)])


@given(LAYERS, LAYERS)
def test_pairs_keep_order_use_layers_once_and_pair_the_last_ones(student, teacher):
    by_kind = {
        kind: ([layer for layer in student if layer.kind == kind], [layer for layer in teacher if layer.kind == kind])
        for kind in ("map", "tokens", "vector")
    }
    if not any(ours and theirs for ours, theirs in by_kind.values()):
        with pytest.raises(TrainingError):
            match_layers(student, teacher)
        return
    pairs = match_layers(student, teacher)
    assert [pair.student for pair in pairs] == [layer for layer in student if layer in {p.student for p in pairs}]
    for kind, (ours, theirs) in by_kind.items():
        matched = [pair for pair in pairs if pair.student.kind == kind]
        assert len(matched) == min(len(ours), len(theirs))
        assert all(pair.teacher.kind == kind for pair in matched)
        if matched:
            i = [ours.index(pair.student) for pair in matched]
            j = [theirs.index(pair.teacher) for pair in matched]
            assert i == sorted(set(i))
            assert j == sorted(set(j))
            assert (i[-1], j[-1]) == (len(ours) - 1, len(theirs) - 1)


@given(st.lists(SIDES, min_size=1, max_size=5), st.lists(SIDES, min_size=1, max_size=7))
def test_the_number_of_pairs_of_equal_resolution_is_maximal(student, teacher):
    from itertools import combinations

    few, many = sorted((student, teacher), key=len)
    pairs = sizes(match_layers(maps(*few), maps(*many)))
    others = [sum(a == b for a, b in zip(few, [*choice, many[-1]])) for choice in combinations(many[:-1], len(few) - 1)]
    assert sum(a == b for a, b in pairs) == max(others)


@given(st.integers(1, 30), st.integers(1, 30))
def test_equal_numbers_of_blocks_pair_one_to_one_and_others_evenly(s, t):
    pairs = index_pairs(match_layers(tokens(s), tokens(t)))
    few, many = sorted((s, t))
    for i, j in pairs:
        ours, theirs = (i, j) if s <= t else (j, i)
        assert abs((ours + 1) / few - (theirs + 1) / many) < 1 / many


def test_named_pairs_are_checked():
    student, teacher = [*maps(8, 4), VECTOR], [*maps(8, 4), *tokens(2), VECTOR]
    pairs = pairs_by_name([("map1", "map0"), ("head:input", "head:input")], student, teacher)
    assert pairs == [Pair(student[1], teacher[0]), Pair(VECTOR, VECTOR)]
    with pytest.raises(TrainingError, match="The student has no layer 'mapp1'; did you mean 'map1'"):
        pairs_by_name([("mapp1", "map0")], student, teacher)
    with pytest.raises(TrainingError, match="The teacher has no layer 'xyz'; known: block0, block1, "):
        pairs_by_name([("map1", "xyz")], student, teacher)
    with pytest.raises(
        TrainingError, match=r"layer map0 \(map 8 x 8 x 8\) cannot learn from .* block0 \(tokens 16 x 8"
    ):
        pairs_by_name([("map0", "block0")], student, teacher)


def test_pairs_are_described_with_kind_and_shape():
    assert describe_pairs(match_layers([*maps(4), VECTOR], [*maps(8), VECTOR])) == [
        ("map0 (map 8 x 4 x 4)", "map0 (map 8 x 8 x 8)"),
        ("head:input (vector 8)", "head:input (vector 8)"),
    ]
