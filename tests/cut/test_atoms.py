from hypothesis import given
from hypothesis import strategies as st

from nas_distill.cut.atoms import Atom, Atoms

ATOMS = st.builds(Atom, st.sampled_from("ab"), st.sampled_from(["in", "out"]), st.integers(0, 4))


def components(pairs):
    """The same by brute force: merge sets until nothing changes."""
    sets = [set(pair) for pair in pairs]
    merged = True
    while merged:
        merged = False
        for one in sets:
            for other in sets:
                if one is not other and one & other:
                    one |= other
                    sets.remove(other)
                    merged = True
                    break
            if merged:
                break
    return sorted(sorted(one) for one in sets)


@given(st.lists(st.tuples(ATOMS, ATOMS)), st.lists(ATOMS, max_size=2))
def test_units_are_what_is_joined_and_not_closed(pairs, closed):
    atoms = Atoms()
    for pair in pairs:
        atoms.join(*pair)
    for atom in closed:
        atoms.close(atom)
    expected = [one for one in components(pairs) if not set(one) & set(closed)]
    assert sorted(atoms.units()) == expected


def test_many_are_joined_at_once():
    atoms = Atoms()
    three = [Atom("a", "out", place) for place in range(3)]
    atoms.join(*three)
    assert list(atoms.units()) == [three]
