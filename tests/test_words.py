"""Habits of prose that a dictionary of single words cannot see, in the package and the documentation.

CONTRIBUTING.md has the list, with the words to use. Single words are checked by codespell, in ``make lint``.
"""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nas_distill"
FILES = [
    *sorted(PACKAGE.rglob("*.py")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")),
]
HABITS = {
    "'alone' for only": r"(?<!let )(?<!stand-)\balone\b",
    "'is no' for is not a": r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|worse\b|\w+er than\b)",
    "'go on' for continue": r"\b(?:go|goes|going|went|gone) on\b",
    "'hold against' for compare": r"\b(?:hold|holds|holding|held)\b,?(?: [\w`'*,-]+){0,5} against\b",
    "'meant over' for averaged over": r"\bmeant over\b",
    "'make up for' for compensate": r"\b(?:make|makes|made|making) up for\b",
    "'worth' for quality": r"\bwhat (?:\w+ ){1,3}(?:is|are|was|were) worth\b",
    "'stand for' for represent": r"\b(?:stand|stands|stood) for\b",
    "'find out' for determine": r"\b(?:find|finds|found) out\b",
    "'so long as' for as long as": r"\bso long as\b",
    "'of its own making'": r"\bof (?:its|their) own making\b",
}
QUESTION = re.compile(r"(?:What|Which|Who|Whose|Where|When|Whether|How|Why)\b")


def relative(path):
    return str(path.relative_to(ROOT))


def docstrings(tree):
    """Docstrings of a module with the lines that they begin in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def prose(path):
    """Passages of a file with the lines that they begin in: comments and texts of code, paragraphs of documents."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return [
            (number, "".join(cell["source"])) for number, cell in enumerate(cells) if cell["cell_type"] == "markdown"
        ]
    if path.suffix == ".md":
        return list(enumerate(text.split("\n\n"), start=1))
    comments = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    texts = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return comments + texts


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_prose_has_none_of_the_habits(path):
    found = [
        f"{relative(path)}:{line}: {habit}: ...{passage[max(0, match.start() - 30) : match.end() + 30]}..."
        for line, passage in prose(path)
        for passage in [" ".join(passage.split())]
        for habit, pattern in HABITS.items()
        for match in re.finditer(pattern, passage)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=relative)
def test_docstrings_begin_with_the_name_of_the_thing(path):
    found = [
        f"{relative(path)}:{line}: {text.splitlines()[0]}"
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if QUESTION.match(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "habit"),
    [
        ("Trained on labels alone.", "'alone' for only"),
        ("This is no error.", "'is no' for is not a"),
        ("The search goes on.", "'go on' for continue"),
        ("It is held, row by row, against the code.", "'hold against' for compare"),
        ("squared error, meant over channels", "'meant over' for averaged over"),
        ("What stays makes up for what goes.", "'make up for' for compensate"),
        ("what the teacher is worth", "'worth' for quality"),
        ("what it is worth", "'worth' for quality"),
    ],
)
def test_a_habit_is_seen(text, habit):
    assert {name for name, pattern in HABITS.items() if re.search(pattern, text)} == {habit}


@pytest.mark.parametrize(
    "text",
    [
        "There is no such key.",
        "It is no longer trained.",
        "A tie: it is no better than the baseline.",
        "The limit holds; it guards against growth.",
        "A stand-alone script.",
        "What a network is given",
    ],
)
def test_other_sentences_are_left(text):
    assert not [name for name, pattern in HABITS.items() if re.search(pattern, text)]
