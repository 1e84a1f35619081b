import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.distill.losses import Batch, Outputs, Shapes
from nas_distill.distill.losses.hint import CosineFeatures


def test_a_value_worked_out_by_hand(make_case):
    # Cosines 1, 0, -1 and 3/5.
    student = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[9.0, 0.0], [0.0, 1.0], [0.0, -3.0], [3.0, 4.0]], dtype=torch.float64)
    value = make_case("cosine_features", [(2,)], [(2,)])([student], [teacher])
    assert float(value) == pytest.approx((0 + 1 + 2 + 0.4) / 4, rel=1e-12)


@pytest.mark.parametrize(("student", "teacher"), [((3,), (5,)), ((3, 2, 2), (5, 2, 2)), ((4, 3), (6, 5))])
def test_widths_that_differ_are_projected(make_case, as_numpy, student, teacher):
    case = make_case("cosine_features", [student], [teacher])
    ours, theirs = case.draw()
    x, y = as_numpy([*ours, *theirs])
    places = {2: 1, 3: 1, 4: (2, 3)}
    x, y = (v if v.ndim == 2 else v.mean(axis=places[v.ndim]) for v in (x, y))
    weight, bias = as_numpy(case.module.parameters())
    x = x @ weight.T + bias
    cosines = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert float(case(ours, theirs).detach()) == pytest.approx(1 - cosines.mean(), rel=1e-9)
    case.check_gradient()


@settings(deadline=None)  # the first example loads what torch loads late
@given(seed=st.integers(0, 100), factor=st.floats(1e-3, 1e4))
def test_a_factor_changes_nothing_and_neither_does_a_repeated_batch(seed, factor):
    module = CosineFeatures(Shapes(5, 4, 1, (((3,), (3,)),)))
    student, teacher = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    batch = Batch(torch.zeros(4), torch.arange(4), 0.0)

    def value(one, other):
        return float(module(Outputs(one, (one,)), Outputs(other, (other,)), batch))

    plain = value(student, teacher)
    assert 0 <= plain <= 2
    assert value(student * factor, teacher / factor) == pytest.approx(plain, rel=1e-9)
    assert value(student.repeat(3, 1), teacher.repeat(3, 1)) == pytest.approx(plain, rel=1e-9)


def test_weights_are_there_only_where_needed(make_case):
    assert not list(make_case("cosine_features", [(3,)], [(3,)]).module.parameters())
    assert list(make_case("cosine_features", [(3,)], [(3,)], always=True).module.parameters())


def test_gradient_minimum_and_stability(make_case):
    make_case("cosine_features", [(3,)], [(3,)]).check_gradient()
    make_case("cosine_features", [(3,), (4, 2, 2)], [(3,), (4, 2, 2)]).check_minimum()
    make_case("cosine_features", [(3,)], [(5,)], dtype=torch.float32).check_stability()
    make_case("cosine_features", [(3,)], [(3,)], dtype=torch.float32).check_stability()
