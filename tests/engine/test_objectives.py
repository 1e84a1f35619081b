import pytest

from nas_distill.config import PruningConfig, ScalarConfig, SearchConfig
from nas_distill.engine.early_stopping import Dominance, NoRule
from nas_distill.engine.objectives import Objectives, Scalar, make_rule
from nas_distill.utils.errors import BudgetError

COSTS = {"flops": 2e6, "params": 1e4, "latency_ms": 0.5}


def test_quality_is_maximised_and_costs_are_minimised() -> None:
    objectives = Objectives.from_config(SearchConfig(costs=("flops", "latency_ms")))
    assert objectives.names == ("quality", "flops", "latency_ms")
    assert objectives.directions == ("maximize", "minimize", "minimize")
    assert objectives.values(0.9, COSTS) == [0.9, 2e6, 0.5]
    assert objectives.compared == ("flops", "latency_ms")


def test_a_scalar_is_the_one_objective_and_its_cost_the_one_compared() -> None:
    search = SearchConfig(costs=("flops",), scalar=ScalarConfig(cost="params", target="50%"))
    objectives = Objectives.from_config(search, {"params": 4e4})
    assert (objectives.names, objectives.directions, objectives.compared) == (("reward",), ("maximize",), ("params",))
    assert objectives.values(0.9, COSTS) == [pytest.approx(0.9 * 0.5**-0.07)]
    with pytest.raises(BudgetError, match="teacher"):
        Objectives.from_config(search)


def test_the_soft_reward_pays_for_being_cheaper_and_is_neutral_on_target() -> None:
    scalar = Scalar("flops", 1e6, -0.07)
    rewards = [scalar.reward(0.8, {"flops": flops}) for flops in (0.0, 5e5, 1e6, 2e6)]
    assert rewards[2] == 0.8
    assert rewards == sorted(rewards, reverse=True)
    # Of a quality below 0, as R^2 may be, too.
    rewards = [scalar.reward(-0.8, {"flops": flops}) for flops in (5e5, 1e6, 2e6)]
    assert rewards[1] == -0.8
    assert rewards == sorted(rewards, reverse=True)


def test_the_rule_is_that_of_the_search_file() -> None:
    objectives = Objectives(("flops",))
    assert make_rule(PruningConfig(rule="none"), objectives) == NoRule()
    pruning = PruningConfig(margin=0.01, min_dominators=2, min_reports=3, tolerance=0.05)
    assert make_rule(pruning, objectives) == Dominance(("flops",), 0.01, 2, 3, 0.05)
    auto = PruningConfig(margin="auto")
    assert make_rule(auto, objectives, margin=(0.02, 0.01)) == Dominance(("flops",), (0.02, 0.01))
    with pytest.raises(ValueError, match="measure it"):
        make_rule(auto, objectives)
