"""The command line: each command is one call into the package, and what it says of the result."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_distill.common.errors import ConfigError, NasDistillError

if TYPE_CHECKING:
    from nas_distill.api import Run, Trial
    from nas_distill.api.console import ConsoleObserver

app = typer.Typer(
    name="nas-distill",
    help="From a teacher, data, a search space and a hardware budget to the best student.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
store_app = typer.Typer(help="The teacher's stored logits.", no_args_is_help=True)
app.add_typer(store_app, name="store")

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run, e.g. runs/quickstart")]
TrialArgument = Annotated[int | None, typer.Argument(metavar="[TRIAL]", help="trial number; the best one unless given")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document instead of a table")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="COST=LIMIT", help="e.g. flops=2M, params=60k, latency_ms=0.5, flops=50%"),
]


@app.command()
def search(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="search file; 'nas-distill init' writes one")],
    resume: Annotated[bool, typer.Option("--resume", help="go on with the latest unfinished run of this file")] = False,
    trials: Annotated[int | None, typer.Option(help="candidates to train")] = None,
    workers: Annotated[int | None, typer.Option(help="trainings at a time")] = None,
    budget: BudgetOption = None,
    address: Annotated[str | None, typer.Option(help="address of a Ray cluster")] = None,
    backend: Annotated[str | None, typer.Option(help="tune (Ray) or inline (one process)")] = None,
    folder: Annotated[Path | None, typer.Option(help="folder of the run; beside the file unless given")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what candidates cost and stop")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search for the best student within a hardware budget.

    Ctrl-C once stops cleanly; --resume goes on.
    """
    from nas_distill.api.start import dry_run as look
    from nas_distill.api.start import search as run_search

    settings: dict[str, Any] = {"trials": trials, "workers": workers, "address": address, "backend": backend}
    limits = _merged_budget(file, budget)
    with _observer(quiet or as_json) as observer:
        if dry_run:
            look(file, settings=settings, budget=limits, observer=observer)
            if as_json:
                _print_json(observer.summary)
            return
        run = run_search(file, budget=limits, folder=folder, resume=resume, observer=observer, **settings)
    if as_json:
        _print_json(run.report())
    elif not quiet:
        _print_report(run)


@app.command()
def front(run: RunArgument, budget: BudgetOption = None, as_json: JsonOption = False) -> None:
    """Show the trials that no other beats, within a budget, and write their picture (front.png)."""
    from nas_distill.report.plots import save_figure

    opened = _open(run)
    limits = _parse_budget(budget)
    records = opened.front_records(limits)
    if as_json:
        _print_json([_trial_dict(opened.trial(record.number)) for record in records])
        return
    from nas_distill.report.tables import front_table

    limited = opened.budget_of(limits).limits
    _print(front_table(records, opened.config.search.costs, limits=limited, finalists=opened.finalists()))
    save_figure(opened.plot(limits), opened.folder.front_png)
    typer.echo(f"Picture: {opened.folder.front_png}")


@app.command()
def show(run: RunArgument, trial: Annotated[int, typer.Argument(metavar="TRIAL")], as_json: JsonOption = False) -> None:
    """Show one trial: its architecture, its costs, what it reached at each rung, and how it ended."""
    opened = _open(run).trial(trial)
    if as_json:
        _print_json(_trial_dict(opened))
        return
    from nas_distill.report.tables import trial_table

    _print(trial_table(opened.record))


@app.command()
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Say where a run stands; works while it runs."""
    opened = _open(run)
    found = opened.status()
    if as_json:
        _print_json(found)
        return
    for key, value in found.items():
        typer.echo(f"{key}: {value}")


@app.command()
def distill(
    run: RunArgument,
    trial: TrialArgument = None,
    epochs: Annotated[float | None, typer.Option(help="length; the run's final.epochs unless given")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="train on labels alone, for comparison")] = False,
    seed: Annotated[int | None, typer.Option(help="the run's unless given")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Distil one trial in full and keep the student."""
    opened = _chosen(_open(run), trial)
    with _observer(quiet or as_json) as observer:
        student = opened.distill(epochs=epochs, taught=not labels, seed=seed, observer=observer)
    _say_student(student, student.evaluate("val"), "val", as_json)


@app.command()
def evaluate(
    run: RunArgument,
    trial: TrialArgument = None,
    split: Annotated[str | None, typer.Option(help="test (where there is one) or val")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a finished student: accuracy, share of the teacher's retained, agreement, calibration."""
    student = _chosen(_open(run), trial).student()
    _say_student(student, student.evaluate(split), split or student.trial.run.inputs.data.splits[-1], as_json)


@app.command()
def export(
    run: RunArgument,
    trial: TrialArgument = None,
    format: Annotated[str, typer.Option("--format", help="onnx")] = "onnx",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file; beside the student unless given")] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a finished student, hold the file against PyTorch on validation data, and time it."""
    if format != "onnx":
        raise ConfigError(f"Format '{format}' is unknown; known: onnx.")
    result = _chosen(_open(run), trial).student().export(output)
    if as_json:
        _print_json(result)
        return
    parity, latency = result["parity"], result["latency"]
    typer.echo(
        f"{result['path']}: {result['bytes']:,} bytes, logits differ by at most {parity['max_abs_difference']:.2g}, "
        f"same predictions for {parity['same_predictions']:.2%} of {parity['count']} samples, "
        f"{latency['p50_ms']:.3f} ms (p95 {latency['p95_ms']:.3f} ms) on {latency['conditions']}"
    )


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(help="a shipped space, or a space file")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the search spaces, or describe one: parameters, values, size."""
    from nas_distill.report.spaces import space_table
    from nas_distill.space import load_space
    from nas_distill.space.catalog import names

    if name is None:
        found = {known: load_space(known) for known in names()}
        if as_json:
            _print_json({known: {"about": space.about, "size": space.size().count} for known, space in found.items()})
            return
        for known, space in found.items():
            typer.echo(f"{known:10} {space.size()}  {space.about}")
        return
    space = load_space(name, [Path.cwd()])
    if as_json:
        _print_json({**space.to_dict(), "size": space.size().count, "exact": space.size().exact})
    else:
        _print(space_table(space))


@app.command()
def teach(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="teach file, e.g. runs/fashion-teacher.yaml")],
    quiet: QuietOption = False,
) -> None:
    """Train a teacher on labels alone, by the same loop that distils students; goes on where it was stopped."""
    from nas_distill.api.teaching import teach_file

    output, evaluation, split = teach_file(
        file,
        on_epoch=lambda done: (
            None
            if quiet
            else typer.echo(f"epoch {done.epoch}/{done.epochs}: validation {done.quality:.2%}, {done.seconds:.0f} s")
        ),
    )
    typer.echo(f"{output}: {evaluation.accuracy:.2%} on {evaluation.count:,} {split} samples")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="where to write it")] = Path("search.yaml"),
) -> None:
    """Write a commented search file to start from."""
    from nas_distill.api.template import write_template

    write_template(file)
    typer.echo(f"Wrote {file}; edit it, then: nas-distill search {file} --dry-run")


@store_app.command("verify")
def store_verify(
    run: RunArgument,
    samples: Annotated[int, typer.Option(help="stored answers to recompute")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Compare a run's stored teacher logits with the live teacher's."""
    from dataclasses import asdict

    found = _open(run).verify_store(samples)
    if as_json:
        _print_json(asdict(found))
        return
    typer.echo(
        f"{found.samples} stored answers: largest difference {found.max_difference:.2g}, same class for "
        f"{found.same_class:.2%}"
    )


def main() -> None:
    """Run the command line; exit code 2 for what a user can put right, 130 when stopped by a signal."""
    try:
        app(standalone_mode=True)
    except NasDistillError as error:
        _fail(str(error), 130 if getattr(error, "interrupted", False) else 2)
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'A file'} cannot be used ({error.strerror or error}).", 2)


def _fail(message: str, code: int) -> None:
    typer.echo(message if code == 130 else f"nas-distill: {message}", err=True)
    sys.exit(code)


def _open(path: Path) -> Run:
    from nas_distill.api import open_run

    return open_run(path)


def _chosen(run: Run, trial: int | None) -> Trial:
    return run.best() if trial is None else run.trial(trial)


def _observer(quiet: bool) -> ConsoleObserver:
    from nas_distill.api.console import ConsoleObserver

    return ConsoleObserver(quiet=quiet)


def _parse_budget(entries: list[str] | None) -> dict[str, str] | None:
    if not entries:
        return None
    limits = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"--budget {entry}: write it as COST=LIMIT, e.g. --budget flops=2M.")
        limits[name.strip()] = value.strip()
    return limits


def _merged_budget(file: Path, entries: list[str] | None) -> dict[str, Any] | None:
    """Limits given on the command line stand in for the file's of the same cost; the others stay."""
    limits = _parse_budget(entries)
    if limits is None:
        return None
    from nas_distill.config import load_search_file

    return {**load_search_file(file).budget, **limits}


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


def _print_json(value: Any) -> None:
    from nas_distill.report.plain import to_plain

    typer.echo(json.dumps(to_plain(value), indent=2, default=str))


def _print_report(run: Run) -> None:
    from nas_distill.report.final import final_table

    _print(final_table(run.report()))
    typer.echo(f"Run: {run.folder.path}   picture: {run.folder.front_png.name}   card: {run.folder.card_md.name}")


def _say_student(student: Any, evaluation: Any, split: str, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        _print_json({"student": str(student.folder), "split": split, **asdict(evaluation)})
        return
    typer.echo(
        f"{student.folder}: {evaluation.accuracy:.2%} on {evaluation.count:,} {split} samples "
        f"({evaluation.retained:.2%} of the teacher's, agreement {evaluation.agreement:.2%}, ECE {evaluation.ece:.4f}, "
        f"NLL {evaluation.nll:.4f})"
    )


def _trial_dict(trial: Trial) -> dict[str, Any]:
    record = trial.record
    return {
        "trial": record.number,
        "state": record.state,
        "quality": record.quality,
        "costs": record.costs,
        "architecture": record.architecture.to_dict(),
        "hash": record.architecture.hash,
        "rungs": {str(rung): quality for rung, quality in record.rungs.items()},
        "stop": record.stop,
        "violations": record.violations,
        "cause": record.cause,
        "seconds": record.seconds,
        "duplicate_of": record.duplicate_of,
        "retry_of": record.retry_of,
    }


if __name__ == "__main__":
    main()
