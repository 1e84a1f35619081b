import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.costs import Budget, Limit, cost_names, format_cost, parse_amount
from nas_distill.utils.errors import BudgetError

NAMES = st.sampled_from(sorted(cost_names()))
AMOUNTS = st.floats(min_value=1e-3, max_value=1e15, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "amount", "value"),
    [
        ("flops", "2M", 2e6),
        ("flops", "1.5 G", 1.5e9),
        ("params", "60k", 60_000),
        ("params", "60K", 60_000),
        ("params", "60_000", 60_000),
        ("params", 60_000, 60_000),
        ("params", "1e5", 1e5),
        ("flops", ".5M", 5e5),
        ("weight_bytes", "512KiB", 512 * 1024),
        ("weight_bytes", "512 kib", 512 * 1024),
        ("weight_bytes", "1MiB", 2**20),
        ("weight_bytes", "1MB", 1e6),
        ("weight_bytes", "2GiB", 2**31),
        ("weight_bytes", "300", 300),
        ("weight_bytes", "300B", 300),
        ("latency_ms", "0.5", 0.5),
        ("latency_ms", "0.5ms", 0.5),
        ("latency_ms", "500us", 0.5),
        ("latency_ms", "500 µs", 0.5),
        ("latency_ms", "2s", 2000),
    ],
)
def test_amounts_are_read_in_the_plain_unit(name, amount, value):
    assert parse_amount(amount, name) == pytest.approx(value)


def test_percent_is_of_the_teacher():
    assert parse_amount("50%", "flops", teacher=3e6) == 1.5e6
    assert parse_amount("12.5 %", "latency_ms", teacher=2.0) == 0.25


@pytest.mark.parametrize(
    ("name", "amount", "message"),
    [
        ("flop", 1, "unknown cost 'flop'; did you mean 'flops'"),
        ("flops", "fast", "not an amount"),
        ("flops", "", "not an amount"),
        ("flops", True, "not an amount"),
        ("flops", None, "not an amount"),
        ("flops", "2m", "unit 'm'"),
        ("flops", "2MB", "unit 'MB'"),
        ("latency_ms", "2M", "unit 'M'"),
        ("weight_bytes", "2M", "MB \\(decimal\\) or MiB \\(binary\\)"),
        ("weight_bytes", "2k", "KB \\(decimal\\) or KiB \\(binary\\)"),
        ("weight_bytes", "2ms", "unit 'ms'"),
        ("flops", "-2M", "negative or not finite"),
        ("flops", float("nan"), "negative or not finite"),
        ("flops", float("inf"), "negative or not finite"),
        ("flops", "50%", "not known here"),
    ],
)
def test_invalid_amounts_are_reported_in_one_sentence(name, amount, message):
    with pytest.raises(BudgetError, match=message) as caught:
        parse_amount(amount, name)
    assert "\n" not in str(caught.value)


def test_percent_of_a_teacher_cost_of_0_is_refused():
    with pytest.raises(BudgetError, match="teacher's is 0"):
        parse_amount("50%", "flops", teacher=0.0)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("params", 512, "512"),
        ("params", 60_000, "60 k"),
        ("flops", 1_250_000, "1.25 M"),
        ("flops", 999_999, "1 M"),
        ("flops", 0, "0"),
        ("weight_bytes", 512 * 1024, "512 KiB"),
        ("weight_bytes", 100, "100 B"),
        ("weight_bytes", 1023 * 1024, "1023 KiB"),
        ("peak_activation_bytes", 1.5 * 2**20, "1.5 MiB"),
        ("latency_ms", 0.48, "0.48 ms"),
        ("latency_ms", 0.0051, "5.1 us"),
        ("latency_ms", 1234.4, "1234 ms"),
        ("flops", float("inf"), "inf"),
    ],
)
def test_costs_are_written_with_three_digits_and_their_unit(name, value, text):
    assert format_cost(name, value) == text


@given(NAMES, AMOUNTS)
def test_written_amounts_are_read_back(name, value):
    assert parse_amount(format_cost(name, value), name) == pytest.approx(value, rel=6e-3)


@given(NAMES, AMOUNTS, AMOUNTS)
def test_written_amounts_keep_their_order(name, first, second):
    low, high = sorted([first, second])

    assert parse_amount(format_cost(name, low), name) <= parse_amount(format_cost(name, high), name)


LIMITS = st.dictionaries(
    NAMES,
    st.one_of(
        AMOUNTS,
        st.tuples(AMOUNTS, AMOUNTS).map(sorted),
        AMOUNTS.map(lambda low: {"min": low}),
        st.tuples(AMOUNTS, AMOUNTS).map(sorted).map(lambda ends: {"min": ends[0], "max": ends[1]}),
    ),
)
COST_TABLES = st.fixed_dictionaries(dict.fromkeys(cost_names(), AMOUNTS))


@given(LIMITS, COST_TABLES)
def test_violations_are_empty_exactly_when_it_fits(limits, costs):
    budget = Budget.parse(limits)
    violations = budget.violations(costs)

    assert budget.fits(costs) == (not violations)
    assert set(violations) <= set(limits)
    assert all(excess > 0 for excess in violations.values())
    for name, limit in budget.limits.items():
        inside = (limit.low is None or costs[name] >= limit.low) and (limit.high is None or costs[name] <= limit.high)
        assert inside == (name not in violations)


@given(st.dictionaries(NAMES, AMOUNTS), COST_TABLES, st.floats(1.0, 10.0))
def test_higher_costs_never_violate_less(limits, costs, factor):
    budget = Budget.parse(limits)
    before = budget.violations(costs)
    after = budget.violations({name: value * factor for name, value in costs.items()})

    assert all(after[name] >= excess for name, excess in before.items())


@given(LIMITS, COST_TABLES)
def test_a_budget_is_unchanged_by_serialisation(limits, costs):
    budget = Budget.parse(limits)

    assert Budget.parse(budget.to_dict()) == budget
    copy = pickle.loads(pickle.dumps(budget))
    assert copy == budget
    assert hash(copy) == hash(budget)
    assert copy.violations(costs) == budget.violations(costs)


def test_excess_is_relative_to_the_violated_side():
    budget = Budget.parse({"flops": "2M", "params": {"min": "10k", "max": "20k"}, "latency_ms": [0.1, 0.2]})

    assert budget.violations({"flops": 3e6, "params": 5_000, "latency_ms": 0.15}) == {
        "flops": pytest.approx(0.5),
        "params": pytest.approx(0.5),
    }
    assert budget.names == ("flops", "params", "latency_ms")
    assert budget.text() == "flops at most 2 M, params 10 k to 20 k, latency_ms 0.1 ms to 0.2 ms"


def test_a_cost_below_a_lower_end_of_zero_is_outside():
    assert Limit(low=0).excess(-1) == math.inf
    assert Limit(low=0).excess(0) == 0


def test_percent_limits_are_fixed_once_parsed():
    budget = Budget.parse({"flops": "50%", "params": ["10%", "20%"]}, {"flops": 8e6, "params": 100_000})

    assert budget.limits == {"flops": Limit(None, 4e6), "params": Limit(10_000, 20_000)}


def test_a_cost_of_nan_does_not_fit():
    assert Budget.parse({"flops": 10}).violations({"flops": float("nan")}) == {"flops": float("inf")}


def test_a_cost_that_was_not_counted_is_an_error():
    with pytest.raises(BudgetError, match="was not counted"):
        Budget.parse({"flops": 10}).fits({"params": 3})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"flop": 1}, "did you mean 'flops'"),
        ({"flops": {"maximum": 3}}, "did you mean 'max'"),
        ({"flops": {}}, "limits nothing"),
        ([1], "must map costs to limits"),
        ({"flops": 10**400}, "too large"),
        ({"flops": None}, "limits nothing"),
        ({"flops": [1, 2, 3]}, "length 3"),
        ({"flops": ["3M", "2M"]}, "lower end is above"),
        ({"flops": 0}, "nothing can meet"),
        ({"flops": "50%"}, "not known here"),
    ],
)
def test_invalid_budgets_are_reported_in_one_sentence(mapping, message):
    with pytest.raises(BudgetError, match=message) as caught:
        Budget.parse(mapping)
    assert "\n" not in str(caught.value)


def test_no_limits_fit_everything():
    budget = Budget()

    assert budget.fits({})
    assert not budget
    assert budget.text() == "no limits"
    assert budget.binding([{}]) is None
    assert Budget.parse({}) == budget


CANDIDATES = [
    {"flops": 3e6, "params": 10_000},
    {"flops": 1e6, "params": 90_000},
    {"flops": 5e6, "params": 30_000},
]


def test_the_limit_that_the_fewest_meet_binds():
    assert Budget.parse({"params": "50k", "flops": "2M"}).binding(CANDIDATES) == "flops"
    assert Budget.parse({"flops": "4M", "params": "5k"}).binding(CANDIDATES) == "params"
    assert Budget.parse({"flops": "2M"}).binding([]) is None


def test_an_infeasible_budget_names_the_limit_and_the_cheapest():
    budget = Budget.parse({"params": "50k", "flops": "500k"})

    assert budget.nearest(CANDIDATES, "flops") == 1
    assert budget.infeasible(CANDIDATES) == (
        "none of 3 candidates fits the budget: 'flops' (at most 500 k) binds, met by 0 of them; "
        "the cheapest found has 1 M."
    )


def test_limits_that_no_candidate_meets_together_are_both_named():
    budget = Budget.parse({"params": "50k", "flops": "2M"})

    assert budget.infeasible(CANDIDATES).endswith(
        "met by 1 of them; the cheapest found has 1 M, and violates the limit on 'params' too."
    )


def test_a_lower_limit_above_all_candidates_names_the_most_expensive():
    budget = Budget.parse({"flops": {"min": "9M"}})

    assert budget.infeasible(CANDIDATES).endswith("met by 0 of them; the most expensive found has 5 M.")


def test_costs_below_lower_ends_are_told_from_costs_above_upper_ends():
    budget = Budget.parse({"flops": [10, 20], "params": 100})
    assert budget.below({"flops": 5, "params": 50})
    assert not budget.below({"flops": 15, "params": 50})
    assert not budget.below({"flops": 25, "params": 50})
    assert not budget.below({"flops": 5, "params": 500})
