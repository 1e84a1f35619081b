import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_distill.costs import Conditions, CostModel, LatencyModel, count
from nas_distill.costs.latency import FEATURES, features, leave_one_out
from nas_distill.costs.tracing import trace
from nas_distill.utils.errors import BudgetError, BuildError, CostError

torch.set_num_threads(1)

HERE = Conditions(batch=1, threads=1, cpu="a processor", runtime="ONNX Runtime 1.0")


def network(width, depth, expansion):
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(depth):
        middle = width * expansion
        layers += [nn.Conv2d(width, middle, 1), nn.ReLU(), nn.Conv2d(middle, middle, 3, padding=1, groups=middle)]
        layers += [nn.ReLU(), nn.Conv2d(middle, width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


SHAPE = (1, 10, 10)
MODELS = [network(width, depth, expansion) for width in (8, 16, 40) for depth in (1, 2, 3) for expansion in (1, 2)]
KNOWN = [features(trace(model, SHAPE)) for model in MODELS]
# A machine with known coefficients, in ms per network, call and multiply-add.
TRUE = {"network": 0.01, "calls_other": 0.002, "calls_pointwise": 0.001, "flops_dense": 2e-8, "tiled_depthwise": 5e-8}


def clock(found):
    return sum(TRUE[name] * found[name] for name in TRUE)


@pytest.fixture(scope="module")
def fitted():
    return LatencyModel.fit([(found, clock(found)) for found in KNOWN], HERE)


def test_a_linear_machine_is_learnt(fitted):
    new = network(24, 4, 3)

    assert fitted.predict(new, SHAPE) == pytest.approx(clock(features(trace(new, SHAPE))), rel=0.05)
    assert fitted.error.count == len(MODELS)
    assert fitted.error.median < 0.02
    assert fitted.error.spearman > 0.99


def test_it_beats_a_line_through_flops(fitted):
    times = np.array([clock(found) for found in KNOWN])
    flops = [count(model, SHAPE, ["flops"])["flops"] for model in MODELS]
    line = leave_one_out(np.column_stack([np.ones(len(times)), flops]), times)

    assert fitted.error.median < line.median / 3
    assert fitted.error.p95 < line.p95


def test_larger_features_never_lower_the_prediction(fitted):
    assert all(weight >= 0 for weight in fitted.coefficients.values())
    assert fitted.predict_features({name: 2 * value for name, value in KNOWN[0].items()}) == pytest.approx(
        2 * fitted.predict_features(KNOWN[0])
    )


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(scale):
    model = LatencyModel.fit([(found, clock(found) * scale) for found in KNOWN], HERE)
    plain = LatencyModel.fit([(found, clock(found)) for found in KNOWN], HERE)

    assert model.predict_features(KNOWN[3]) == pytest.approx(scale * plain.predict_features(KNOWN[3]), rel=1e-6)
    assert model.error.median == pytest.approx(plain.error.median, abs=1e-6)


def test_features_that_no_sample_had_are_named(fitted):
    only = [({"network": 1.0, "flops_dense": float(size)}, 0.1 * size) for size in range(1, 10)]
    model = LatencyModel.fit(only, HERE)

    assert model.unseen(KNOWN[0])[:1] == ["calls_dense"]
    assert model.unseen({"network": 1.0, "flops_dense": 3.0, "calls_other": 0.0}) == []
    assert fitted.unseen(KNOWN[0]) == []


def test_a_model_is_unchanged_by_json(fitted):
    copy = LatencyModel.from_dict(json.loads(json.dumps(fitted.to_dict())))

    assert copy == fitted
    assert copy.predict_features(KNOWN[5]) == fitted.predict_features(KNOWN[5])


@pytest.mark.parametrize("spoil", ["coefficients", "conditions", "error"])
def test_an_invalid_stored_model_is_refused(fitted, spoil):
    content = fitted.to_dict()
    with pytest.raises(CostError, match="cannot be read"):
        LatencyModel.from_dict({**content, spoil: {"nonsense": "x"}})
    del content[spoil]
    with pytest.raises(CostError, match="cannot be read"):
        LatencyModel.from_dict(content)


def test_fewer_than_eight_samples_are_not_fitted():
    samples = [(found, clock(found)) for found in KNOWN]

    assert LatencyModel.fit(samples[:8], HERE).error.count == 8
    with pytest.raises(CostError, match="at least 8 timed networks"):
        LatencyModel.fit(samples[:7], HERE)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(wrong):
    samples = [(found, clock(found)) for found in KNOWN]

    with pytest.raises(CostError, match="positive, finite"):
        LatencyModel.fit([*samples, (KNOWN[0], wrong)], HERE)


def test_unknown_features_are_refused():
    with pytest.raises(CostError, match="colour"):
        LatencyModel.fit([({"colour": 1.0}, 1.0)] * 9, HERE)


def test_equal_networks_have_no_rank_correlation():
    model = LatencyModel.fit([(KNOWN[0], 1.0)] * 9, HERE)

    assert model.error.spearman == 0.0
    assert model.error.median == pytest.approx(0.0, abs=0.01)


def test_calibration_times_models_and_leaves_out_broken_ones():
    models = [network(8, depth, expansion) for depth in (1, 2, 3) for expansion in (1, 2, 3)]
    broken = nn.Sequential(nn.Conv2d(3, 4, 3))
    counts = []

    model = LatencyModel.calibrate([*models[:4], broken, *models[4:]], SHAPE, repeats=5, progress=counts.append)

    assert model.error.count == 9
    assert counts == list(range(1, 11))
    assert model.conditions.threads == 1
    assert model.predict(models[0], SHAPE) > 0
    assert set(model.coefficients) <= set(FEATURES)


def test_a_calibration_with_too_few_networks_names_the_first_cause():
    with pytest.raises(CostError, match=r"0 of 2 could be timed: .*input of shape \(1, 1, 10, 10\)"):
        LatencyModel.calibrate([nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)], SHAPE, repeats=1)
    with pytest.raises(CostError, match="0 of 0"):
        LatencyModel.calibrate([], SHAPE)


def test_a_cost_model_keeps_the_order_of_names(fitted):
    names = ["latency_ms", "params", "flops"]
    costs = CostModel(names, SHAPE, fitted).costs(MODELS[4])

    assert list(costs) == names
    assert costs["latency_ms"] == fitted.predict(MODELS[4], SHAPE)
    assert costs["flops"] == count(MODELS[4], SHAPE)["flops"]


def test_a_cost_model_records_at_most_once_and_only_if_needed(monkeypatch, fitted):
    import nas_distill.costs.model as module

    calls = []
    monkeypatch.setattr(module, "trace", lambda *arguments: calls.append(1) or trace(*arguments))

    CostModel(["params", "weight_bytes"], SHAPE).costs(MODELS[0])
    assert calls == []
    CostModel(["flops", "peak_activation_bytes", "latency_ms"], SHAPE, fitted).costs(MODELS[0])
    assert calls == [1]


def test_a_cost_model_refuses_unknown_and_uncalibrated_costs(fitted):
    with pytest.raises(BudgetError, match="did you mean 'latency_ms'"):
        CostModel(["latency"], SHAPE, fitted)
    with pytest.raises(CostError, match="calibration"):
        CostModel(["latency_ms"], SHAPE)
    with pytest.raises(BuildError):
        CostModel(["flops"], SHAPE).costs(nn.Conv2d(3, 4, 3))
