from nas_distill.reports.trust import compare_starts
from tests.reports.conftest import make_record


def test_candidates_are_compared_by_initial_weights():
    def candidate(number, start, quality, state="complete"):
        return make_record(number, state, qualities=(0.1, 0.1, quality), values={"start": start, "n": number})

    records = [
        candidate(0, "inherited", 0.9),
        candidate(1, "inherited", 0.8),
        candidate(2, "random", 0.7),
        candidate(3, "random", 0.95, "pruned"),
        candidate(4, "random", None, "over_budget"),
    ]
    assert compare_starts(records) == (
        "2 candidates began with the teacher's weights (0 stopped early, the best at 90.00 %) and "
        "2 candidates began with random ones (1 stopped early, the best at 70.00 %), by short scores."
    )
    assert "1 candidate began with random ones (1 stopped early, none to the end)" in compare_starts(records[3:])


def test_a_run_without_the_choice_has_no_comparison():
    assert compare_starts([make_record(0)]) is None
