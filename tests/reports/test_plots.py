import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.image import imread

from nas_distill.costs.budget import Limit
from nas_distill.reports.front_layers import front_layers
from nas_distill.reports.importance import Importance, ImportanceReport
from nas_distill.reports.model import FinalistResult, ModelResult
from nas_distill.reports.plots import (
    BLUE,
    SKY,
    dominator_figure,
    front_figure,
    importance_figure,
    rungs_figure,
    save_figure,
)
from nas_distill.utils.errors import RunError


def lines(axes, *, marker=None, color=None):
    """Return the points of the lines with a marker and a colour."""

    def fits(line):
        right_colour = color is None or to_rgba(line.get_color()) == to_rgba(color)
        return right_colour and (marker is None or line.get_marker() == marker)

    return [tuple(map(float, point)) for line in axes.lines if fits(line) for point in line.get_xydata()]


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([*found, *legend])


@pytest.fixture(scope="module")
def figure(run, final):
    teacher = ModelResult("teacher", validation=0.942, costs={"flops": 2.1e7, "params": 6e5})
    return front_figure(
        run,
        costs=["flops", "params"],
        limits={"flops": final.limits["flops"]},
        teacher=teacher,
        finalists=final.finalists,
        baseline=ModelResult("hard labels only", validation=0.91),
        title="a run",
    )


def test_each_cost_has_its_panel_on_a_logarithmic_axis(figure):
    flops, params = figure.axes
    assert (flops.get_xscale(), params.get_xscale()) == ("log", "log")
    assert flops.get_ylim() == params.get_ylim()
    assert (flops.get_xlabel(), params.get_xlabel()) == ("FLOPs (multiply-adds)", "parameters")
    assert flops.get_ylabel() == "validation accuracy"


def test_the_front_is_a_line_of_steps_through_its_trials(run):
    limits = {"flops": Limit(high=1e6)}
    front = front_layers(run, "flops", limits).front
    figure = front_figure(run, costs=["flops"], limits=limits)
    assert lines(figure.axes[0], marker="o", color=BLUE) == list(front)
    (step,) = [line for line in figure.axes[0].lines if to_rgba(line.get_color()) == to_rgba(BLUE)]
    assert step.get_drawstyle() == "steps-post"


def test_untrained_candidates_are_ticks_at_the_bottom(run):
    figure = front_figure(run, costs=["flops"])
    ticks = lines(figure.axes[0], marker="|")
    wanted = {record.costs["flops"] for record in run if record.state in ("over_budget", "failed")}
    assert {x for x, _ in ticks} == wanted
    assert all(0 <= y < 0.05 for _, y in ticks)


def test_all_stopped_trials_are_drawn(run):
    figure = front_figure(run, costs=["flops"])
    hollow = [line for line in figure.axes[0].lines if line.get_mfc() == "none"]
    points = [point for line in hollow for point in line.get_xydata()]
    low, high = figure.axes[0].get_ylim()
    assert len(points) == sum(record.state == "pruned" for record in run)
    assert all(low <= y <= high for _, y in points)


def test_teacher_student_baseline_and_budget_are_named(figure, final):
    said = texts(figure)
    for part in ("teacher 94.2 %", "student 9", "at most 2 M", "hard labels only", "over budget, never trained"):
        assert part in said
    stars = lines(figure.axes[0], marker="*")
    assert sorted(stars) == sorted((entry.costs["flops"], entry.full) for entry in final.finalists)


def test_the_uniform_network_is_a_star_of_its_own_colour(run):
    finalists = [
        FinalistResult(1, {"flops": 1e6}, 0.9, 0.92, chosen=True),
        FinalistResult(None, {"flops": 1.1e6}, None, 0.91, uniform=True),
    ]
    drawn = front_figure(run, costs=["flops"], finalists=finalists)
    stars = lines(drawn.axes[0], marker="*")
    assert set(stars) == {(1e6, 0.92), (1.1e6, 0.91)}
    assert lines(drawn.axes[0], marker="*", color=SKY) == [(1.1e6, 0.91)]
    assert "uniform network" in texts(drawn)


def drawn_labels(figure):
    """Return the panel and the labels of a figure of one panel, as it is drawn."""
    figure.canvas.draw()
    (axes,) = figure.axes
    return axes, [label for label in axes.texts if label.get_text()]


@pytest.mark.parametrize(
    ("low", "high", "count"), [(9e5, 1e6, 2), (1e5, 2e7, 2), (1.9e7, 2e7, 1), (1e4, 1.05e4, 1), (1e5, 1.1e5, 2)]
)
def test_labels_of_two_limits_are_apart_in_the_panel_and_cross_no_line(run, low, high, count):
    figure = front_figure(run, costs=["flops"], limits={"flops": Limit(low=low, high=high)})
    axes, labels = drawn_labels(figure)
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) == count
    assert not boxes[0].overlaps(boxes[-1]) or count == 1
    for box in boxes:
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1
        for limit in (low, high):
            assert not box.x0 < axes.transData.transform((limit, axes.get_ylim()[0]))[0] < box.x1


@pytest.mark.parametrize("place", [0, -1])
def test_the_label_of_a_student_at_an_edge_is_within_the_panel(run, place):
    record = sorted((r for r in run if r.state == "complete"), key=lambda r: r.costs["flops"])[place]
    student = FinalistResult(record.number, record.costs, record.final_quality, 0.93, chosen=True)
    axes, labels = drawn_labels(front_figure([record, *run], costs=["flops"], finalists=[student]))
    box = next(label for label in labels if "student" in label.get_text()).get_window_extent()
    assert axes.bbox.x0 <= box.x0
    assert box.x1 <= axes.bbox.x1


def test_limits_are_lines_and_the_outside_is_shaded(run):
    figure = front_figure(run, costs=["flops"], limits={"flops": Limit(low=1e5, high=1e6)})
    axes = figure.axes[0]
    upright = [
        line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert {1e5, 1e6} <= set(upright)
    shaded = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches)
    left, right = axes.get_xlim()
    assert shaded == [pytest.approx((left, 1e5)), pytest.approx((1e6, right))]


def test_an_expensive_teacher_does_not_squeeze_the_front(run):
    teacher = ModelResult("teacher", validation=0.95, costs={"flops": 1e12})
    figure = front_figure(run, costs=["flops"], teacher=teacher)
    assert figure.axes[0].get_xlim()[1] < 1e9
    assert "teacher 95.0 %, 1 T" in texts(figure)


@pytest.mark.parametrize("costs", [["flops"], ["flops", "params", "latency_ms"]])
def test_the_picture_of_an_empty_run_says_so(costs, tmp_path):
    figure = front_figure([], costs=costs)
    assert "nothing has been trained yet" in texts(figure)
    save_figure(figure, tmp_path / "front.png")


def test_pictures_are_written_atomically_at_their_size(figure, tmp_path):
    path = save_figure(figure, tmp_path / "a folder" / "front.png")
    pixels = imread(path)
    assert pixels.shape[:2] == (800, 1200)
    assert np.ptp(pixels[..., :3]) > 0.9
    assert [entry.name for entry in path.parent.iterdir()] == ["front.png"]


def test_a_picture_that_cannot_be_written_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"front\.png cannot be written") as error:
        save_figure(rungs_figure([]), tmp_path / "file" / "front.png")
    assert "\n" not in str(error.value)


def test_rungs_show_every_report_and_where_trials_were_stopped(run):
    best = max((r for r in run if r.state == "complete"), key=lambda r: r.final_quality)
    figure = rungs_figure(run, highlight=best.number)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if line.get_linestyle() != "None"]
    assert len(curves) == sum(bool(record.reports) for record in run)
    assert len(lines(axes, marker="x")) == sum(record.state == "pruned" for record in run)
    assert f"trial {best.number}" in texts(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["11 %", "33 %", "100 %"]


def test_dominator_bars_add_up_to_what_was_stopped(run):
    figure = dominator_figure(run, cost="flops", most=100)
    widths = sum(patch.get_width() for patch in figure.axes[0].patches)
    assert widths == sum(record.dominated_by is not None for record in run)
    assert "nothing was stopped" in texts(dominator_figure([], cost="flops"))


def test_importance_bars_are_in_order_with_their_basis():
    rows = (Importance("width", 0.5, 0.05), Importance("kind", 0.2, 0.6))
    figure = importance_figure(ImportanceReport(rows, 1, 44, 0.8, 0.6, 0.7, "flops"))
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.2, 0.05, 0.6]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["width", "kind"]
    assert axes.yaxis_inverted()
    assert "44 trials at rung 1" in axes.get_xlabel()
    assert "too little" not in axes.get_xlabel()
    empty = importance_figure(ImportanceReport(rows, 1, 44, -0.1, 0.6, 0.7, "flops"))
    assert "too little" in empty.axes[0].get_xlabel()


def test_a_notebook_displays_a_figure(run, tmp_path):
    figure = front_figure(run, costs=["flops"])
    shown = tmp_path / "shown.png"
    shown.write_bytes(figure._repr_png_())
    width, height = figure.get_size_inches()
    rows, columns, _ = imread(shown).shape
    assert columns / rows == pytest.approx(width / height, rel=0.01)


def test_global_settings_of_matplotlib_are_unchanged(tmp_path):
    code = """
import sys, matplotlib
settings = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
before = settings()
from nas_distill.reports.plots import front_figure, save_figure
save_figure(front_figure([], costs=["flops"]), sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "front.png")], check=True)
