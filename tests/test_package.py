"""The package as it is imported and installed."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import nas_distill

ROOT = Path(__file__).parents[1]
HEAVY = ("ray", "torch", "optuna", "pandas", "matplotlib", "numpy", "sklearn", "onnx", "onnxruntime", "fvcore")


def imported_by(statement):
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(found.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("import nas_distill") & set(HEAVY) == set()


def test_the_command_line_offers_help_without_anything_heavy():
    assert imported_by("import nas_distill.cli") & set(HEAVY) == set()


def test_searching_does_not_import_ray_before_it_runs():
    assert "ray" not in imported_by("import nas_distill as nd; nd.search, nd.open_run, nd.Dataset, nd.load_student")


@pytest.mark.parametrize("name", nas_distill.__all__)
def test_every_public_name_is_there(name):
    value = getattr(nas_distill, name)
    assert value.__name__ == name
    assert value.__doc__


def test_public_names_are_listed_and_others_are_refused():
    assert set(nas_distill.__all__) <= set(dir(nas_distill))
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        nas_distill.serch  # noqa: B018


def test_search_stays_the_function_whatever_is_imported():
    code = "import nas_distill as nd, nas_distill.cli, nas_distill.study.pipeline; assert callable(nd.search)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The files of a wheel built from what is committed or could be, not from what runs left behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("nas_distill", "search_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = target.glob("*.whl")
    return path


def test_a_wheel_holds_all_that_the_package_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    spaces = {path.name for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert spaces
    assert {f"nas_distill/spaces/shipped/{name}" for name in spaces} <= names
    assert "nas_distill/py.typed" in names
    assert {"nas_distill/data/embedded/fashion-mnist.npz", "nas_distill/data/embedded/NOTICE"} <= names
    shipped = ROOT / "nas_distill" / "teacher" / "shipped"
    teachers = {path.relative_to(ROOT).as_posix() for path in shipped.rglob("*") if path.is_file()}
    assert any(name.endswith("model.safetensors") for name in teachers)
    assert teachers <= names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nas_distill").rglob("*.py")}
    assert modules <= names
    licences = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "nas_distill/data/embedded/NOTICE"}


def test_an_unpacked_wheel_finds_what_it_ships(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import sys, pathlib, nas_distill
from nas_distill.data import load_dataset
from nas_distill.spaces import load_space
from nas_distill.spaces.catalog import names, shipped_folder
from nas_distill.teacher.teacher import shipped_teachers
site = pathlib.Path(sys.argv[1])
assert pathlib.Path(nas_distill.__file__).is_relative_to(site)
assert shipped_folder().is_relative_to(site)
assert [load_space(name).name for name in names()] == ["mbconv", "resnet"]
assert {"fashion-resnet", "fashion-resnet-deep"} <= set(shipped_teachers())
assert load_dataset("fashion-mnist").num_classes == 10
"""
    site = tmp_path / "site"
    command = [sys.executable, "-P", "-c", code, str(site)]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": ""}, check=True)


# Versions.


def pins(name):
    """Versions that a file of constraints fixes: package -> version."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(each.name): Version(str(each.specifier).removeprefix("==")) for each in found}


def requirements():
    """Everything that pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in {*project["dependencies"], *(line for extra in extras for line in extra)}]


def test_lower_bounds_are_the_oldest_versions_that_the_tests_were_run_with():
    oldest = pins("constraints-oldest.txt")
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {canonicalize_name(Requirement(line).name) for line in required} <= set(oldest)
    for each in requirements():
        bounds = [Version(bound.version) for bound in each.specifier if bound.operator == ">="]
        assert len(bounds) == 1, f"{each} has no lower bound"
        pinned = oldest.get(canonicalize_name(each.name))
        assert pinned is None or [pinned] == bounds, f"{each} was tested with {pinned}"


def test_pinned_versions_are_ones_that_are_asked_for():
    pinned = pins("constraints.txt")
    for each in requirements():
        assert canonicalize_name(each.name) in pinned or each.name == "jupyterlab", f"{each} is not pinned"
        assert pinned.get(canonicalize_name(each.name)) is None or each.specifier.contains(
            pinned[canonicalize_name(each.name)]
        )
