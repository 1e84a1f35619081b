import json
import math
from dataclasses import replace

from nas_distill.reports.formatting import to_plain
from nas_distill.reports.model import ModelResult, ratio


def test_a_report_is_json_with_every_figure(final):
    plain = json.loads(json.dumps(to_plain(final), allow_nan=False))
    assert plain["student"]["evaluation"]["accuracy"] == 0.9259
    assert plain["student"]["latency_p50_ms"] == 0.4
    assert plain["limits"]["flops"] == {"low": None, "high": 2e6}
    assert plain["finalists"][0]["chosen"] is True
    assert plain["savings"]["pruning_saved_seconds"] == 160.0
    assert plain["trust"]["interval"] is None
    assert plain["speed_up"] == 8.0


def test_numbers_that_are_not_finite_become_none(final):
    broken = replace(final, student=ModelResult("student", validation=math.nan, costs={"flops": math.inf}))
    plain = to_plain(broken)
    assert plain["student"]["validation"] is None
    assert plain["student"]["costs"] == {"flops": None}
    assert plain["speed_up"] is None


def test_ratios_need_two_figures_above_zero():
    assert ratio(6, 3) == 2
    assert ratio(None, 3) is ratio(3, None) is ratio(1, 0) is ratio(0, 1) is ratio(math.nan, 1) is None
