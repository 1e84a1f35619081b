"""Mutated search files: each is accepted, or refused in one sentence, whatever is in it."""

from __future__ import annotations

import copy
import functools
import json
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_distill.cli.template import TEMPLATE
from tests.conftest import SMALL, Answer, write_search

ROOT = Path(__file__).parents[1]
CASES, PARTS = 2000, 4
SECONDS = 10
WITH_COMMAND = 4

RAW = [
    "!!int ''", "!!int x", "!!bool maybe", "!!float ''", "!!null 3", "!!str 3", "!!timestamp x", "!!binary gA==",
    "!!set {a, b}", "!!omap [a: 1]", "!!python/object/apply:os.system ['true']", "!own 3", "&a [*a]", "&a {b: *a}",
    "*unknown", "[" * 500 + "]" * 500, "{a: " * 60 + "1" + "}" * 60, "[&x [1, 2], *x, *x]", "&x {<<: *x}", "{<<: 3}",
    "{a: 1, a: 2}", "? [1]\n: 2", "{[1]: 2}", '"\\0"', '"a\\0.yaml"', '"\\ud800"', "=", "<<", "~", "2024-01-01",
    "9" * 200, "9" * 5000, "1e999", "-1e999", ".nan", ".inf", "-.inf", "0x" + "f" * 40, "1e30", "-1", "0", "1", "3.5",
    "1:1:1",
    "yes", "no", "''", "text", "a.b:c", "'../x'", "'/'", "'.'", "'%'", "50%", "1e400M", "[]", "{}", "[[]]", "[1, 2]",
    "[1, a, null]", "{int: 3}", "{str: {int: 3}}", "{float: x, bool: y}", "{1: 2}", "{null: 1}", "{min: 1, max: 0}",
    "{min: 0, max: 5}", "{int: [1, 4]}", "{int: [1, 1000000000000]}", "{repeat: 1000000000, of: [1, 2]}",
    "{repeat: 3, of: {repeat: 3, of: [1]}}", "{each: [1]}", "{choice: [1, 1]}", "1" + "0" * 90, "é", "'\U0001f600'",
    "[" + ", ".join(["x"] * 2000) + "]", "x" * 5000,
]  # fmt: skip
KEYS = ["int", "float", "str", "bool", "list", "0", "1", "null", "yes", "<<", "'a b'", "''", "name", "when", "repeat"]


class Raw(str):
    """YAML written as it stands."""


def bases(teacher: Path) -> list[Any]:
    """The search files that are mutated: the shipped ones, and small ones that use the other keys."""
    store = {"name": str(teacher), "store": str(teacher.parent / "store")}
    rich = {
        **SMALL,
        "name": "rich",
        "data": {"name": "digits", "views": {"count": 2, "pad": 1, "flip": False, "seed": 1}},
        "teacher": {**store, "combine": {"by": "mean"}},
        "search": {
            **SMALL["search"],
            "pruning": {"margin": 0.01, "min_dominators": 2},
            "scalar": {"cost": "flops", "target": "50%", "exponent": -0.07},
        },
        "score": {
            "epochs": 2,
            "rungs": [0.5, 1.0],
            "optimizer": {"name": "adamw", "lr": 0.002, "clip": None},
            "loss": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kd", "temperature": 4.0, "start": 0.1}],
            "curriculum": {"by": "student_loss", "start": 0.5},
        },
        "budget": {"flops": "60%", "params": [10, 1e6], "weight_bytes": {"max": "1MiB"}},
        "blockwise": {"epochs": 0, "trunk": [0.5, 1.0]},
    }
    cut = {**SMALL, "teacher": store, "space": {"from_teacher": {"widths": [0.5, 1.0], "samples": 64}}}
    spaces = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "search_spaces").glob("*"))]
    return [
        yaml.safe_load((ROOT / "runs" / "quickstart.yaml").read_text(encoding="utf-8")),
        yaml.safe_load(TEMPLATE),
        {**SMALL, "teacher": store},
        rich,
        cut,
        *({**SMALL, "teacher": store, "space": space} for space in spaces),
    ]


class Pair(list[Any]):
    """A key and its value."""


def thaw(value: Any) -> Any:
    """Return a tree whose mappings are lists of pairs, so that a key may be there twice."""
    if isinstance(value, dict):
        return [Pair([str(key), thaw(inner)]) for key, inner in value.items()] or Raw("{}")
    return [thaw(entry) for entry in value] if isinstance(value, list | tuple) else value


def slots(tree: Any) -> list[tuple[list[Any], int]]:
    """Return (list, index) of everything in a tree: entries and pairs of lists, and the values of pairs."""
    if not isinstance(tree, list):
        return []
    own = [1] if isinstance(tree, Pair) else range(len(tree))
    return [slot for index in own for slot in [(tree, index), *slots(tree[index])]]


def emit(tree: Any) -> str:
    """Write a tree in YAML's flow style."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pair):
        key, value = tree
        return f"{key if isinstance(key, Raw) else json.dumps(key)}: {emit(value)}"
    if isinstance(tree, list):
        inside = ", ".join(map(emit, tree))
        return f"{{{inside}}}" if any(isinstance(entry, Pair) for entry in tree) else f"[{inside}]"
    return json.dumps(tree)


def mutated(rng: random.Random, base: Any) -> bytes:
    """Return a search file in which one to three things are changed."""
    tree = thaw(base)
    for _ in range(rng.choice([1, 1, 2, 3])):
        holder, index = rng.choice(slots(tree) or [([tree], 0)])
        numbers = [(held, at) for held, at in slots(tree) if isinstance(held[at], int | float)]
        if numbers and rng.random() < 0.3:  # what may well be accepted
            holder, index = rng.choice(numbers)
            holder[index] = rng.choice([0, 1, 2, holder[index] * 2, holder[index] / 2, -holder[index], 1e9, 0.5, True])
            continue
        here, pair = holder[index], isinstance(holder[index], Pair)
        action = rng.choice(["replace"] * 5 + ["delete", "duplicate", "rename", "nest", "alias", "swap", "tag"])
        if isinstance(holder, Pair) and action in ("delete", "duplicate", "rename"):
            action = "replace"
        if action == "delete":
            del holder[index]
        elif action == "duplicate":
            holder.insert(index, copy.deepcopy(here))
        elif pair and action == "rename":
            here[0] = rng.choice([Raw(rng.choice(KEYS)), here[0][:-1], here[0] + "s", here[0].upper()])
        elif pair:
            here[1] = changed(rng, action, here[1], tree)
        else:
            holder[index] = changed(rng, action, here, tree)
    data = bytearray(emit(tree).encode())
    if rng.random() < 0.1:  # damage of bytes, whatever they mean
        for _ in range(rng.randint(1, 8)):
            place = rng.randrange(len(data) + 1)
            data[place : place + rng.randint(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
    return bytes(data)


def changed(rng: random.Random, action: str, value: Any, tree: Any) -> Any:
    """Return what stands in for a value."""
    if action == "nest":
        return rng.choice([[value], [Pair([rng.choice(["a", "int", "name"]), value])], [value, copy.deepcopy(value)]])
    if action == "alias":
        return Raw(f"[&n {emit(value)}, *n]")
    if action == "tag":
        return Raw(f"{rng.choice(['!!int', '!!str', '!!map', '!!seq', '!!float', '!!bool', '!x'])} {emit(value)}")
    if action == "swap":
        holder, index = rng.choice(slots(tree))
        other = copy.deepcopy(holder[index])
        return other[1] if isinstance(other, Pair) else other
    return Raw(rng.choice(RAW))


class _TooLongError(BaseException):
    """Not an Exception, which the command line would take for a bug."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End what takes more time of this process (not by the clock, since the machine may be busy)."""

    def end(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.fixture
def quick_dry_run(monkeypatch) -> None:
    """A dry run whose candidates are drawn and not built, and that loads equal data and teachers once."""
    from nas_distill.engine.candidates import Pricing
    from nas_distill.engine.survey import estimate_seconds, survey_space
    from nas_distill.study import cutting, problem, start

    def once(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[Any, Any] = {}

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            named = key(*arguments, **keywords)
            if named not in known:
                known[named] = function(*arguments, **keywords)
            return known[named]

        return call

    def survey(pipeline: Any, found: Any) -> Any:
        config = pipeline.config
        fake = dict.fromkeys([config.search.objectives[0], *found.budget.names, "flops", "params"], 1.0)
        space, first = pipeline.problem.space, config.search.objectives[0]
        return survey_space(space, Pricing(lambda _: fake), by=first, seed=config.seed)

    def estimate(pipeline: Any, *_: Any) -> Any:
        return estimate_seconds(pipeline.config, pipeline.problem.data, 0.01, pipeline.config.search.trials)

    monkeypatch.setattr(start.Pipeline, "estimate", estimate)
    monkeypatch.setattr(start.Pipeline, "survey", survey)
    monkeypatch.setattr(start.Pipeline, "pricing", lambda self, _: self.problem.pricing(None, 1.0))
    monkeypatch.setattr(problem, "load_data", once(problem.load_data, lambda c, _, seed: (c.model_dump_json(), seed)))
    monkeypatch.setattr(
        problem,
        "_load_teacher",
        once(problem._load_teacher, lambda c, data, _: (c.model_dump_json(), data.fingerprint)),
    )
    counted = problem.SearchProblem.teacher_costs.func
    counted = once(counted, lambda found: (found.teacher.fingerprint, found.input_shape))
    monkeypatch.setattr(problem.SearchProblem, "teacher_costs", property(counted))
    monkeypatch.setattr(
        cutting, "_find", once(cutting._find, lambda t, d, o: (t.fingerprint, d.fingerprint, o.model_dump_json()))
    )


def fault(answer: Answer) -> str | None:
    """Say what is wrong with an answer; None if nothing is."""
    if "Traceback" in answer.err:
        return "a traceback"
    if answer.code == 0:
        return None
    if answer.code != 2:
        return f"exit code {answer.code}"
    sentence = answer.err.removesuffix("\n")
    if "\n" in sentence or not sentence.startswith("nas-distill: ") or not sentence.endswith((".", "?")):
        return "not one sentence"
    return None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.usefixtures("one_thread", "quick_dry_run")
def test_a_mutated_search_file_is_accepted_or_refused_in_one_sentence(cli, tmp_path, teacher_folder, part):
    rng = random.Random(part)
    originals = bases(teacher_folder)
    file, faults = tmp_path / "search.yaml", []
    codes: dict[int, list[bytes]] = {0: [], 2: []}
    for original in originals:
        file.write_text(emit(thaw(original)))
        assert cli("search", file, "--dry-run", "--quiet").code == 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(CASES // PARTS):
        content = mutated(rng, originals[case % len(originals)])
        file.write_bytes(content)
        try:
            with at_most(SECONDS):
                answer = cli("search", file, "--dry-run", "--quiet")
        except _TooLongError:
            answer = Answer(-1, "", f"more than {SECONDS} s")
        wrong = fault(answer)
        if wrong:
            faults.append(f"case {case}: {wrong}: {answer.err[:300]!r} {content[:1500]!r}")
        else:
            codes[answer.code].append(content)
    assert not faults, f"{len(faults)}:\n" + "\n".join(faults[:20])
    assert min(len(codes[0]), len(codes[2])) > CASES / PARTS / 20  # both ways were tried
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 400_000, f"{grown} KiB more memory than before"
    for content in rng.sample(codes[2], WITH_COMMAND):
        file.write_bytes(content)
        assert fault(command(file)) is None, content


def command(file: Path) -> Answer:
    """Run a real dry run in a process of its own, in bounded memory."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))

    done = subprocess.run(
        [sys.executable, "-m", "nas_distill.cli", "search", str(file), "--dry-run", "--quiet"],
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_a_mutated_small_file_ends_a_real_dry_run(tmp_path, teacher_folder):
    rng = random.Random(3)
    file = write_search(tmp_path / "small.yaml", teacher_folder)
    original = yaml.safe_load(file.read_text())
    for _ in range(6):
        content = mutated(rng, original)
        file.write_bytes(content)
        answer = command(file)
        assert fault(answer) is None, (answer, content)
