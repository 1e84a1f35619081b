"""README, docs and the search file's page, compared with the code."""

import ast
import csv
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
import pytest
import typer
import yaml
from pydantic.fields import FieldInfo

from nas_distill import config
from nas_distill.cli import app
from nas_distill.cli.template import TEMPLATE
from nas_distill.config import (
    SearchFile,
    TeacherSource,
    TeachFile,
    TrainingConfig,
    load_search_file,
    load_teach_file,
    parse,
)
from nas_distill.costs import Budget, cost_names, declare_cost, find_cost, find_runtime, runtime_names
from nas_distill.costs.registry import SUFFIXES
from nas_distill.engine.samplers import find_sampler, sampler_names
from nas_distill.spaces import SearchSpace, names
from nas_distill.study.problem import resolve
from nas_distill.utils import errors
from nas_distill.utils.options import options_cell
from nas_distill.utils.validation import file_fields

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "search-file.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = {
    "The whole file": config.SearchFile,
    "data": config.DataConfig,
    "data.views": config.ViewsConfig,
    "teacher": config.TeacherConfig,
    "teacher.combine": config.CombineConfig,
    "space.from_teacher": config.FromTeacherConfig,
    "search": config.SearchConfig,
    "search.sampler": config.SamplerConfig,
    "search.costs": config.CostConfig,
    "search.pruning": config.PruningConfig,
    "search.scalar": config.ScalarConfig,
    "score": config.ScoreConfig,
    "final": config.FinalConfig,
    "optimizer": config.OptimizerConfig,
    "loss": config.TermConfig,
    "curriculum": config.CurriculumConfig,
    "latency": config.LatencyConfig,
    "allocation": config.AllocationConfig,
    "blockwise": config.BlockwiseConfig,
    "The teach file": config.TeachFile,
}
TRAINING = "Training, in score and final and of a teacher"
BASE = {"data": "digits", "teacher": "fashion-resnet", "space": "mbconv"}


def relative(path):
    return str(path.relative_to(ROOT))


def sections(text):
    """The text below each heading, up to the next; headings without their backquotes."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {title.replace("`", ""): body for title, body in zip(parts[1::2], parts[2::2])}


def keys(body):
    """Rows of a table of keys: key -> (default, meaning) as they are written."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) ?\|$", body, flags=re.MULTILINE)
    return {key: (default, meaning) for key, default, meaning in rows}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def headings(text):
    """Anchors as GitHub makes them of headings."""
    found = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.fixture(scope="module")
def page():
    return sections(PAGE.read_text(encoding="utf-8"))


# Every key of the search file.


def every_section(base=config.Section):
    return {base, *(inner for each in base.__subclasses__() for inner in every_section(each))}


def test_every_section_of_the_search_file_has_its_place_in_the_page(page):
    assert {*SECTIONS.values(), TrainingConfig, TeacherSource} == every_section() - {
        config.Section,
        config.TrainedSection,
    }
    assert {*SECTIONS, TRAINING} <= set(page)


@pytest.mark.parametrize(("title", "model"), SECTIONS.items(), ids=list(SECTIONS))
def test_the_page_has_every_key_and_no_other(page, title, model):
    stated = set(keys(page[title]))
    if issubclass(model, config.TrainedSection):
        stated |= set(keys(page[TRAINING]))
    assert {key for key in stated if "." not in key} == set(file_fields(model))


@pytest.mark.parametrize(("title", "model"), SECTIONS.items(), ids=list(SECTIONS))
def test_the_page_states_the_defaults_of_the_code(page, title, model):
    rows = keys(page[TRAINING]) | keys(page[title]) if issubclass(model, config.TrainedSection) else keys(page[title])
    fields = file_fields(model)
    if issubclass(model, config.TrainedSection):  # its length is its own
        default = model.model_fields["training"].default
        fields["epochs"] = FieldInfo(annotation=float, default=default.epochs)
        assert default.model_fields_set == {"epochs"}
    for key, (stated, meaning) in rows.items():
        if "." in key:
            continue
        check_default(fields[key], stated, f"{title}: {key}")
        assert meaning or key in ("optimizer", "loss", "weight_decay", "training"), f"{key} has no meaning"


def check_default(field, stated, where):
    if field.is_required():
        assert stated == "required", where
        return
    default = field.get_default(call_default_factory=True)
    if isinstance(default, config.Section):
        assert re.fullmatch(r"\[(below|above)\]\(#[\w-]+\)", stated), where
        return
    if isinstance(default, tuple) and default and all(isinstance(item, config.CostConfig) for item in default):
        default = tuple(item.model_dump() for item in default)
    if isinstance(default, tuple) and default and all(isinstance(item, config.Section) for item in default):
        assert re.fullmatch(r"\[(below|above)\]\(#[\w-]+\)", stated), where
        return
    value = yaml.safe_load(stated.strip("`"))
    if isinstance(default, tuple):
        assert [pytest.approx(item, rel=1e-3) if isinstance(item, float) else item for item in default] == value, where
    else:
        assert (value, type(value)) == (default, type(default)), where


def test_the_length_of_a_teaching_is_stated_where_it_differs(page):
    stated, _ = keys(page["The teach file"])["training.epochs"]
    check_default(TrainingConfig.model_fields["epochs"], stated, "training.epochs")
    assert TeachFile.model_fields["training"].default == TrainingConfig()


def words(annotation):
    """The words of every Literal in an annotation."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in words(part))


def test_every_choice_between_words_is_spelt_out(page):
    for title, model in SECTIONS.items():
        for key, (stated, meaning) in keys(page[title]).items():
            for word in words(file_fields(model)[key].annotation) if "." not in key else ():
                assert f"`{word}`" in f"{stated} {meaning}", f"{title}: {key} does not say what '{word}' is"


def test_the_rows_of_costs_are_true_of_the_code(page):
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", page["budget and costs"], flags=re.MULTILINE)
    assert {name for name, *_ in rows} == set(cost_names())
    for name, unit, suffixes, about in rows:
        spec = find_cost(name)
        assert re.sub(r" \(\[.*\)$", "", about) == spec.about
        assert unit.strip("`") == (spec.info.unit or "none")
        assert set(re.findall(r"`(\w+)`", suffixes)) <= set(SUFFIXES[spec.info.family])


def test_the_rows_of_runtimes_are_true_of_the_code(page):
    rows = re.findall(r"^\| `(\w+)` \| `(\.\w+)` \| (.*?) \|$", page["Runtimes"], flags=re.MULTILINE)
    assert {name for name, *_ in rows} == set(runtime_names())
    for name, suffix, about in rows:
        assert (suffix, about) == (find_runtime(name).suffix, type(find_runtime(name)).__doc__.rstrip("."))


def test_every_sampler_has_the_row_of_its_signature_and_docstring(page):
    rows = [line for line in page["Samplers"].splitlines() if line.startswith("| `")]
    specs = [find_sampler(config.SamplerConfig(name=name)).spec for name in sampler_names()]
    assert rows == [f"| `{spec.name}` | {spec.about} | {options_cell(spec.make, spec.options)} |" for spec in specs]


# Examples in the page.


def yaml_examples():
    return [yaml.safe_load(text) for text in blocks(PAGE.read_text(encoding="utf-8"), "yaml")]


def kind(example):
    if "parameters" in example:
        return "space"
    if "output" in example:
        return "teach"
    if set(example) <= set(SearchFile.model_fields):
        return "search"
    return "notation"


def test_there_is_an_example_of_each_kind():
    assert {kind(example) for example in yaml_examples()} == {"space", "teach", "search", "notation"}


def test_examples_of_the_page_are_accepted():
    declare_cost("energy_mj", "mJ")
    teacher = dict.fromkeys(cost_names(), 1e6)
    for example in yaml_examples():
        if kind(example) == "search":
            found = parse(SearchFile, {**BASE, **example}, source="example")
            assert Budget.parse(found.budget, teacher).names == tuple(found.budget)
        elif kind(example) == "teach":
            parse(TeachFile, example, source="example")
        else:
            given = {} if kind(example) == "space" else {"builder": "some.module:build"}
            space = SearchSpace.from_dict(example, **given)
            assert space.size().exact
            assert space.smallest() != space.largest()


def test_the_notation_example_uses_all_of_the_notation():
    (notation,) = [example for example in yaml_examples() if kind(example) == "notation"]
    used = set(re.findall(r"'(choice|int|step|repeat|of|each|when)'", str(notation)))
    assert used == {"choice", "int", "step", "repeat", "of", "each", "when"}
    space = SearchSpace.from_dict(notation, builder="some.module:build")
    one, two = space.smallest().values, space.largest().values
    assert ("heads" in one, "heads" in two) == (False, True)
    assert [len(stage["blocks"]) for stage in two["stages"]] == [3, 3]


def test_the_example_of_own_data_teacher_and_builder_works(tmp_path):
    modules = [text for text in blocks(PAGE.read_text(encoding="utf-8"), "python") if text.startswith("# my_models.py")]
    files = [text for text in blocks(PAGE.read_text(encoding="utf-8"), "yaml") if text.startswith("# my_search.yaml")]
    (module,), (file,) = modules, files
    (tmp_path / "my_models.py").write_text(module, encoding="utf-8")
    (tmp_path / "my_search.yaml").write_text(file, encoding="utf-8")
    problem = resolve(load_search_file(tmp_path / "my_search.yaml"), (tmp_path,))
    assert problem.data.num_classes == problem.teacher.num_classes == 4
    for architecture in (problem.space.smallest(), problem.space.largest()):
        network = problem.space.build(architecture, input_shape=problem.input_shape, num_classes=4)
        assert network(problem.data.batch("val", problem.data.batches("val")[0])[0]).shape[1] == 4


def test_shipped_search_files_and_the_template_are_accepted(tmp_path):
    template = tmp_path / "search.yaml"
    template.write_text(TEMPLATE, encoding="utf-8")
    for path in [template, *sorted((ROOT / "runs").glob("*.yaml"))]:
        (load_teach_file if "output:" in path.read_text(encoding="utf-8") else load_search_file)(path)


# README and docs.


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for target in targets:
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{relative(path)} links to {target}, which does not exist"
        if anchor:
            assert anchor in headings(file.read_text(encoding="utf-8")), f"{relative(path)}: there is no #{anchor}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.csv")), ids=lambda path: path.name)
def test_every_row_of_a_table_has_a_figure_for_each_header(path):
    with path.open(encoding="utf-8", newline="") as lines:
        headers, *rows = csv.reader(lines)
    assert len(set(headers)) == len(headers)
    assert {len(row) for row in rows} == {len(headers)}


# The package.

PROSE = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
DESIGN = ROOT / "docs" / "design.md"


@pytest.mark.parametrize("path", PROSE, ids=relative)
def test_modules_and_names_of_the_package_exist(path):
    for name in set(re.findall(r"(?<![\w./-])nas_distill(?:\.\w+)+", path.read_text(encoding="utf-8"))):
        if not name.startswith("nas_distill.ai"):
            pkgutil.resolve_name(name)


@pytest.mark.parametrize("path", PROSE, ids=relative)
def test_paths_of_the_repository_exist(path):
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w./-])(?:\.\./)*([\w-]+(?:/[\w-]+)*/[\w-]+\.(?:py|csv|ipynb))(?![\w/])", text)
    for name in found:
        bases = [ROOT, ROOT / "nas_distill", ROOT / "docs", path.parent]
        assert any((base / name).exists() for base in bases), f"{relative(path)} names {name}"


def rooms():
    return {path.name for path in (ROOT / "nas_distill").iterdir() if (path / "__init__.py").exists()}


def test_the_design_lists_every_room_and_only_files_that_exist():
    (tree,) = re.findall(
        r"^    nas_distill/\n(.*?)^    search_spaces/", DESIGN.read_text(encoding="utf-8"), re.M | re.S
    )
    listed, room = set(), ""
    for indent, named in re.findall(r"^ {4}( {2,4})((?:[\w]+(?:/|\.py)(?:, )?)+)", tree, flags=re.M):
        if len(indent) == 2:
            room = named if named.endswith("/") else ""
            listed |= {room.rstrip("/")} - {""}
        for name in named.split(", "):
            base = ROOT / "nas_distill" / (room if len(indent) == 4 else "")
            assert (base / name).exists(), f"{room}{name}"
    assert listed == rooms()


def test_contributing_lists_every_room():
    (table,) = re.findall(
        r"^\| room \| .*\n\|.*\n((?:\|.*\n)+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M
    )
    listed = {name for cell in re.findall(r"^\| (.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", cell)}
    assert listed == rooms()


def test_steps_of_the_paths_through_the_code_are_in_their_files():
    (drawn,) = re.findall(r"^## Four paths.*?\n(.*?)^## ", DESIGN.read_text(encoding="utf-8"), flags=re.M | re.S)
    steps = re.findall(r"^ {6}([\w/]+\.py) +(?:(\w+)(?:\.(\w+))?)?", drawn, flags=re.M)
    assert len(steps) >= 20
    for name, *identifiers in steps:
        source = (ROOT / "nas_distill" / name).read_text(encoding="utf-8")
        for identifier in filter(None, identifiers):
            assert re.search(rf"\b{identifier}\b", source), f"{name} has no {identifier}"


# The site.


def pages_of(navigation):
    """Pages that a navigation of mkdocs names, whatever sections they are in."""
    if isinstance(navigation, str):
        return [navigation]
    inner = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for entry in inner for page in pages_of(entry)]


def test_every_page_is_in_the_navigation_of_the_site():
    class Loader(yaml.SafeLoader):
        """mkdocs has tags of its own, of which none is in the navigation."""

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    assert sorted(pages_of(site["nav"])) == sorted(
        str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")
    )


def test_the_reference_lists_every_public_name_and_nothing_that_is_not_there():
    import nas_distill

    listed = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), flags=re.M)
    found = {pkgutil.resolve_name(name) for name in listed}
    assert {name for name in nas_distill.__all__ if getattr(nas_distill, name) not in found} == {"NasDistillError"}
    assert errors in found  # with all errors, NasDistillError first


def test_files_named_in_the_readme_exist():
    named = re.findall(r"`((?:notebooks|docs|runs|search_spaces|benchmarks|nas_distill)/[\w./-]+)`", readme())
    assert named
    for name in named:
        made_by_a_run = name == "runs/quickstart/"
        assert made_by_a_run or (ROOT / name).exists(), name


def readme():
    return README.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_python_snippets_compile(path):
    for snippet in blocks(path.read_text(encoding="utf-8"), "python"):
        ast.parse(snippet)


def test_names_used_from_the_package_in_snippets_exist():
    import nas_distill

    for path in PAGES:
        for name in re.findall(r"\bnd\.(\w+)|nas_distill\.(\w+)\(", path.read_text(encoding="utf-8")):
            assert hasattr(nas_distill, name[0] or name[1]), f"{relative(path)} uses {name}"


def command_lines(text):
    """Command lines of nas-distill: in indented and fenced blocks, and in backquotes."""
    shown = re.findall(r"(?:^|`)(?:    |\$ )?(?:\.venv/bin/)?nas-distill ([^`\n#]*)", text, flags=re.MULTILINE)
    return [line.strip() for line in shown if line.strip() and not line.startswith("<")]


def test_the_readme_shows_commands():
    assert len(command_lines(readme())) >= 8


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "runs").glob("*.yaml"))], ids=relative)
def test_commands_and_their_options_exist(path):
    group = typer.main.get_command(app)
    for line in command_lines(path.read_text(encoding="utf-8").replace("#   nas-distill", "    nas-distill")):
        command, words = group, shlex.split(line)
        while isinstance(command, click.Group) or hasattr(command, "commands"):
            assert words, line
            assert words[0] in command.commands, f"{relative(path)}: there is no command '{words[0]}' ({line})"
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"{relative(path)}: '{line}' has no option {word}"


def test_every_command_is_in_the_readme():
    group = typer.main.get_command(app)
    shown = readme()
    for name in group.commands:
        assert f"nas-distill {name}" in shown, f"README does not name {name}"


def test_make_targets_named_in_readme_and_docs_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for path in PAGES:
        for target in re.findall(r"(?:^    |`)make ([\w-]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert target in targets, f"{relative(path)}: make {target}"


def test_figures_of_the_quick_start_in_the_readme_are_those_of_its_files():
    search = load_search_file(ROOT / "runs" / "quickstart.yaml")
    limit = search.budget["flops"]
    assert f"budget of {limit[:-1]} {limit[-1]}" in readme()
    assert {"mbconv", "resnet"} <= set(names())


# Nothing of the machine that something was made on.

MACHINE = re.compile(r"(?<![\w.:/-])/(?:work|root|tmp|home|Users|mnt|opt)/")
KEPT = [
    *PAGES,
    *(path for folder in ("runs", "notebooks", "search_spaces") for path in sorted((ROOT / folder).rglob("*"))),
]
TEXTS = {".md", ".yaml", ".ipynb", ".csv", ".json", ".journal"}


def committed(path):
    """Not the folders of runs that somebody made here."""
    parts = path.relative_to(ROOT).parts
    return parts[0] != "runs" or len(parts) == 2 or parts[1] == "example"


@pytest.mark.parametrize("path", [path for path in KEPT if path.suffix in TEXTS and committed(path)], ids=relative)
def test_no_path_of_a_machine_is_in_it(path):
    text = path.read_text(encoding="utf-8")
    found = MACHINE.search(text)
    assert found is None, text[max(0, found.start() - 60) : found.end() + 60]
