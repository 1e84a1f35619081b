import pytest
import torch
from torch.nn import functional

from nas_distill.distill.losses.reviewkd import hierarchical
from nas_distill.utils.errors import TrainingError

STUDENT, TEACHER = [(3, 8, 8), (4, 4, 4), (6, 2, 2)], [(5, 8, 8), (4, 4, 4), (7, 2, 2)]


def test_hierarchical_context_by_hand():
    student, teacher = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]).double()
    # Of 2x2 places only the average of all is coarser: (50 / 4 * 1 + 9 * 1/2) / (1 + 1/2).
    assert float(hierarchical(student, teacher)) == pytest.approx((12.5 + 4.5) / 1.5, rel=1e-12)


def test_hierarchical_context_of_all_scales(as_numpy):
    student, teacher = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (difference,) = as_numpy([student - teacher])
    total = (difference**2).mean()
    for weight, places in [(0.5, 4), (0.25, 2), (0.125, 1)]:
        cell = 8 // places
        pooled = difference.reshape(3, 2, places, cell, places, cell).mean(axis=(3, 5))
        total += weight * (pooled**2).mean()
    assert float(hierarchical(student, teacher)) == pytest.approx(total / 1.875, rel=1e-10)
    repeated = hierarchical(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1))
    assert float(repeated) == pytest.approx(total / 1.875, rel=1e-10)
    assert float(hierarchical(student, student)) == 0


def test_layers_are_fused_from_the_deep_end(make_case):
    """The whole is written out with plain functions and the module's weights."""
    case = make_case("reviewkd", STUDENT, TEACHER, middle=5)
    ours, theirs = case.draw()
    state = case.module.state_dict()

    def normed(x, name, padding):
        x = functional.conv2d(x, state[f"{name}.0.weight"], padding=padding)
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return x * state[f"{name}.1.weight"][:, None, None] + state[f"{name}.1.bias"][:, None, None]

    expected, carried = 0.0, None
    for place in (2, 1, 0):
        name = f"fusions.{place}"
        x = normed(ours[place], f"{name}.take", 0)
        if carried is not None:
            carried = carried.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            both = torch.cat([x, carried], dim=1)
            maps = functional.conv2d(both, state[f"{name}.attend.0.weight"], state[f"{name}.attend.0.bias"]).sigmoid()
            x = x * maps[:, 0:1] + carried * maps[:, 1:2]
        carried = x
        expected += float(hierarchical(normed(x, f"{name}.give", 1), theirs[place]))
    assert float(case(ours, theirs).detach()) == pytest.approx(expected, rel=1e-9)


def test_a_deep_layer_of_the_student_learns_from_the_shallow_of_the_teacher(make_case):
    case = make_case("reviewkd", STUDENT, TEACHER)
    ours, theirs = case.draw()
    ours = [value.requires_grad_() for value in ours]
    grads = []
    for changed in (theirs, [theirs[0] + 1.5 * torch.randn_like(theirs[0]), *theirs[1:]]):
        grads.append(torch.autograd.grad(case(ours, changed), ours))
    assert all(not torch.equal(a, b) for a, b in zip(*grads))
    # And not the other way round: the deepest of the teacher does not reach the student's first.
    deeper = torch.autograd.grad(case(ours, [*theirs[:2], theirs[2] * 2]), ours)
    assert torch.equal(deeper[0], grads[0][0])
    assert not torch.equal(deeper[2], grads[0][2])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [(STUDENT, TEACHER), ([(3, 4, 4), (2, 2, 2)], [(3, 8, 8), (4, 1, 1)]), ([(3, 4, 4)], [(2, 2, 2)])],
)
def test_gradient(make_case, student, teacher):
    case = make_case("reviewkd", student, teacher)
    # A gradient check of every element is for small layers; the rest is checked along a way through all weights.
    if student is STUDENT:
        ours, theirs = case.draw()
        case.check_weights(list(case.module.parameters()), ours, theirs)
    else:
        case.check_gradient()


def test_stability(make_case):
    make_case("reviewkd", STUDENT, TEACHER, dtype=torch.float32).check_stability()


def test_the_fused_width_is_that_of_the_deepest(make_case):
    assert make_case("reviewkd", STUDENT, TEACHER).module.fusions[0].take[0].out_channels == 6
    assert make_case("reviewkd", [(600, 2, 2)], [(3, 2, 2)]).module.fusions[0].take[0].out_channels == 512


@pytest.mark.parametrize("shape", [(5, 8), (8,)])
def test_layers_without_places_are_refused(make_case, shape):
    with pytest.raises(TrainingError, match=r"'reviewkd' compares a map \(C, H, W\).*take 'hint'"):
        make_case("reviewkd", [shape], [shape])


def test_a_batch_of_one_place_is_learnt_from_too(make_case):
    case = make_case("reviewkd", [(3, 1, 1)], [(4, 1, 1)])
    ours, theirs = case.draw(1)
    before = {key: value.clone() for key, value in case.module.state_dict().items()}
    value = case([ours[0].requires_grad_()], theirs)
    value.backward()
    assert torch.isfinite(value)
    assert float(ours[0].grad.abs().max()) > 0
    # One value has no variance, so running statistics stay what they were.
    assert all(torch.equal(value, before[key]) for key, value in case.module.state_dict().items())
    case(*case.draw(2))
    assert any(not torch.equal(value, before[key]) for key, value in case.module.state_dict().items())
