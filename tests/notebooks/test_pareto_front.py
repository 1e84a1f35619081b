"""The notebook, executed on the run that is committed beside it."""

import base64
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from matplotlib.image import imread

import nas_distill as nd

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "pareto_front.ipynb"
RUN = ROOT / "runs" / "example"
PICTURES = {"plot", "dominators", "rungs", "importance", "tight-plot", "predict"}


def text(cell):
    """All that a code cell shows as text."""
    found = []
    for output in cell.outputs:
        found.append(output.get("text", ""))
        found += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(found).replace("\N{NO-BREAK SPACE}", " ")


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def cells():
    """The notebook's code cells after a fresh execution, with this checkout's package."""
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        return code_cells(execute.execute(NOTEBOOK))


@pytest.fixture(scope="module")
def run():
    return nd.open_run(RUN)


def test_every_cell_shows_something_and_nothing_warns(cells):
    assert len(cells) >= 15
    for name, cell in cells.items():
        assert cell.outputs, f"cell {name} shows nothing"
        assert not re.search(r"\w+Warning\b|Traceback", text(cell)), text(cell)


def test_pictures_are_shown_as_pictures(cells, tmp_path):
    shown = {name for name, cell in cells.items() if any("image/png" in out.get("data", {}) for out in cell.outputs)}
    assert shown == PICTURES
    for name in PICTURES:
        (picture,) = [out.data["image/png"] for out in cells[name].outputs if "image/png" in out.get("data", {})]
        path = tmp_path / f"{name}.png"
        path.write_bytes(base64.b64decode(picture))
        assert imread(path)[..., :3].std() > 0.01, f"{name} is empty"


def test_the_report_is_of_the_runs_student(cells, run):
    report = run.report()
    assert report.architecture in text(cells["report"])
    assert f"{100 * report.student.evaluation.accuracy:.2f} %" in text(cells["report"])


def test_every_stop_is_listed_with_what_dominates_it(cells, run):
    stops = [record for record in run.records if record.stop is not None]
    for record in stops:
        assert re.search(rf"^{record.number}\b.*\b{record.stop.dominated_by}\b", text(cells["stopped"]), re.MULTILINE)
    assert stops or "Nothing was stopped" in text(cells["stopped"])


def test_moved_budgets_are_held(cells, run):
    for name, budget in (("tight", {"flops": "2M"}), ("params", {"params": "80k", "flops": "6%"})):
        best = run.best(budget)
        assert run.budget_of(budget).fits(best.costs)
        assert repr(best) in text(cells[name])
        inside = {record.number for record in run.front_records(budget)}
        shown = {int(number) for number in re.findall(r"^(\d+) ", text(cells[name]), re.MULTILINE)}
        assert shown == inside


def test_the_outputs_that_are_kept_are_of_the_run_that_is_kept(run):
    kept = code_cells(nbformat.read(NOTEBOOK, as_version=4))
    hint = "python notebooks/execute.py makes them again"
    assert run.report().architecture in text(kept["report"]), hint
    assert {name for name, cell in kept.items() if not cell.outputs} == set(), hint
    assert NOTEBOOK.stat().st_size < 1_000_000
