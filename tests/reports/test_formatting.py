import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.costs.budget import Limit
from nas_distill.reports import formatting as words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "-"),
    ],
)
def test_durations(seconds, text):
    assert words.duration(seconds) == text


@given(st.floats(0, 1e6))
def test_durations_never_show_sixty(seconds):
    assert "60" not in words.duration(seconds).split()[1::2][0]
    assert not any(part == "60" for part in words.duration(seconds).split()[2::2])


def test_shares_and_differences():
    assert words.percent(0.93254) == "93.25 %"
    assert words.percent(1, 0) == "100 %"
    assert words.percent(None) == words.percent(math.nan) == "-"
    assert words.points(0.0042) == "+0.42 points"
    assert words.points(-0.0042) == "-0.42 points"
    assert words.points(-1e-9) == words.points(1e-9) == "0.00 points"


def test_costs_carry_their_units():
    assert words.cost("latency_ms", 0.48) == "0.48 ms"
    assert words.cost("weight_bytes", 512 * 1024) == "512 KiB"
    assert words.cost("flops", None) == "-"
    assert words.cost("energy_of_my_own", 12.3456) == "12.35"
    assert words.costs({"params": 6e4, "latency_ms": 0.4, "flops": 2e6}, ("flops", "latency_ms", "absent")) == (
        "2 M flops, 0.4 ms latency"
    )


def test_limits_are_short():
    assert words.limit("flops", Limit(high=2e6)) == "<= 2 M"
    assert words.limit("flops", Limit(low=2e6)) == ">= 2 M"
    assert words.limit("latency_ms", Limit(0.1, 0.5)) == "0.1 ms to 0.5 ms"
    assert words.limit("flops", None) == words.limit("flops", Limit()) == "-"


def test_ratios_and_counts():
    assert words.times(8.06) == "8.1x"
    assert words.times(1234.5) == "1234x"
    assert words.times(None) == words.times(math.inf) == "-"
    assert words.count(1, "trial") == "1 trial"
    assert words.count(12000, "trial") == "12,000 trials"
    assert words.count(0, "class", "classes") == "0 classes"


@pytest.mark.parametrize("scale", [0.01, 1.0, 59.0, 3600.0])
def test_parts_of_a_time_add_up_as_they_are_written(scale):
    parts = {str(place): scale * share for place, share in enumerate((0.349, 1.26, 0.5, 0.0001, 2.71, 0.448))}
    total, written = words.durations(parts)
    assert as_seconds(total) == pytest.approx(sum(map(as_seconds, written.values())))
    assert as_seconds(total) == pytest.approx(sum(parts.values()), rel=0.02, abs=0.05)
    assert "3" not in written


def as_seconds(text):
    units = {"h": 3600.0, "min": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (h|min|s)", text))
