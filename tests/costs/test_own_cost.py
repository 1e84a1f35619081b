"""User-defined costs, found by ``package.module:name``."""

import pytest
from torch import nn

from nas_distill.costs import Budget, Cost, CostModel, declare_cost, find_cost, format_cost
from nas_distill.costs.model import CostSubject
from nas_distill.utils.errors import BudgetError, ConfigError, CostError, TrustError
from nas_distill.utils.references import only_known

SHAPE = (3,)


def test_an_own_cost_is_computed_beside_built_in_ones(own):
    model = nn.Linear(3, 2)
    costs = CostModel([Cost.find(own, {"picojoules": 1e9}), "params"], SHAPE).costs(model)

    assert costs == {"energy_mj": 8.0, "params": 8.0}
    assert list(costs) == ["energy_mj", "params"]


def test_a_function_without_the_decorator_is_a_cost(own):
    found = Cost.find("my_costs:plain")

    assert (found.info.name, found.info.unit) == ("plain", "")
    assert found.compute(CostSubject(nn.Linear(3, 2), SHAPE)) == 2.0


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        *((name, "finite number of at least 0") for name in ("nan", "inf", "negative", "huge")),
        *((name, "a number of at least 0") for name in ("text", "nothing", "yes", "list")),
        ("raise", "failed: KeyError"),
    ],
)
def test_invalid_results_are_reported_with_the_cost_in_one_sentence(own, broken, said):
    with pytest.raises(CostError, match=f"'energy_mj' .*{said}") as caught:
        CostModel([Cost.find(own, {"broken": broken})], SHAPE).costs(nn.Linear(3, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_costs:NotACost", "not a function"),
        ("my_costs:number", "not a function"),
        ("my_costs:enrgy_mj", "energy_mj"),
    ],
)
def test_references_to_other_objects_are_refused(own, name, said):
    with pytest.raises(ConfigError, match=said):
        find_cost(name)


def test_an_invalid_option_is_refused(own):
    with pytest.raises(ConfigError, match=r"picojoules.*must be a number"):
        Cost.find(own, {"picojoules": "many"})


def test_code_of_an_untrusted_folder_is_not_loaded(own, tmp_path):
    with only_known(tmp_path), pytest.raises(TrustError, match="my_costs:energy_mj"):
        Cost.find(own)


def test_amounts_of_a_declared_cost_have_its_unit():
    declare_cost("charge_uc", "uC")

    assert format_cost("charge_uc", 12.345) == "12.3 uC"
    assert Budget.parse({"charge_uc": "5 uC"}).limits["charge_uc"].high == 5.0
    with pytest.raises(BudgetError, match="write it like 5uC"):
        Budget.parse({"charge_uc": "5 kg"})


def test_a_cost_with_two_declared_units_is_written_without_a_unit():
    declare_cost("charge_twice", "uC")
    declare_cost("charge_twice", "mC")

    assert format_cost("charge_twice", 12.345) == "12.3"


def test_a_stored_budget_with_unknown_costs_is_restored():
    budget = Budget.restore({"never_heard_of": {"min": 1.0, "max": 2.0}})

    assert budget.fits({"never_heard_of": 1.5})
    assert budget.text() == "never_heard_of 1 to 2"
    with pytest.raises(BudgetError, match="stored budget"):
        Budget.restore({"flops": "2M"})
