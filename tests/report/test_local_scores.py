from nas_distill.report.local_scores import local_ranking


def test_it_says_how_both_rank():
    found = {
        "plain": {"tau": 0.5, "low": 0.1, "high": 0.8, "count": 14},
        "fitted": {"tau": 0.625, "low": 0.25, "high": 0.9, "count": 14},
    }
    assert local_ranking(found) == (
        "Local scores of blocks ranked 14 assembled students with tau 0.50 (0.10 to 0.80), with weights fitted to the "
        "others 0.62 (0.25 to 0.90); candidates were ranked by short distillation."
    )
