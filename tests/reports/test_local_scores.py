from nas_distill.evaluate.intervals import RankCorrelation
from nas_distill.reports.trust import local_ranking
from nas_distill.runs.metadata import BlockWeightsRecord


def test_plain_and_fitted_local_scores_are_compared_by_tau():
    found = BlockWeightsRecord(
        weights=(1.0,),
        slope=0.1,
        intercept=0.5,
        strength=float("inf"),
        plain=RankCorrelation(0.5, 0.1, 0.8, 14),
        fitted=RankCorrelation(0.625, 0.25, 0.9, 14),
        held_out=(),
    )
    assert local_ranking(found) == (
        "Local scores of blocks ranked 14 assembled students with tau 0.50 (0.10 to 0.80), with weights fitted to the "
        "others 0.62 (0.25 to 0.90); candidates were ranked by short distillation."
    )
