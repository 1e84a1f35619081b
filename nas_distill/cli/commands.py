"""Commands of the command line: each parses arguments, calls the package and prints the result."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_distill import __version__
from nas_distill.cli.output import (
    BudgetOption,
    JsonOption,
    QuietOption,
    RunArgument,
    TrialArgument,
    TrustOption,
    open_run_folder,
    parse_budget,
    print_json,
    print_student,
    print_table,
    printable,
)
from nas_distill.study.interruption import stoppable

if TYPE_CHECKING:
    from nas_distill.study import Run, Trial
    from nas_distill.study.assembly import CountedAssembly
    from nas_distill.study.calibration import Calibration
    from nas_distill.study.observer import ConsoleObserver


app = typer.Typer(
    name="nas-distill",
    help="Find the best student of a teacher within a hardware budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
store_app = typer.Typer(help="The teacher's stored logits.", no_args_is_help=True)
app.add_typer(store_app, name="store")


class Assistants(StrEnum):
    """Assistants that may replace the teacher."""

    FRONT = "front"
    SELF = "self"


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=lambda given: _print_version(given), help="print the version"
        ),
    ] = False,
) -> None:
    pass


@app.command()
def search(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="search file; 'nas-distill init' writes one")],
    resume: Annotated[bool, typer.Option("--resume", help="resume the latest unfinished run of this file")] = False,
    trials: Annotated[int | None, typer.Option(help="candidates to train")] = None,
    workers: Annotated[int | None, typer.Option(help="trainings in parallel")] = None,
    budget: BudgetOption = None,
    address: Annotated[str | None, typer.Option(help="address of a Ray cluster")] = None,
    backend: Annotated[str | None, typer.Option(help="tune (Ray) or inline (one worker process)")] = None,
    folder: Annotated[Path | None, typer.Option(help="folder of the run; next to the file unless given")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the costs of candidates and stop")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="advice.yaml of a calibration, for keys that the file does not set")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search for the best student within a hardware budget.

    Ctrl-C once stops cleanly; --resume continues.
    """
    from nas_distill.study.start import dry_run as look
    from nas_distill.study.start import search as run_search

    settings: dict[str, Any] = {"trials": trials, "workers": workers, "address": address, "backend": backend}
    limits = parse_budget(budget)
    with _observer(quiet or as_json) as observer:
        if dry_run:
            look(file, settings=settings, budget=limits, calibration=calibration, observer=observer)
        else:
            run = run_search(
                file,
                budget=limits,
                folder=folder,
                resume=resume,
                calibration=calibration,
                observer=observer,
                **settings,
            )
    if dry_run:
        if as_json:
            print_json(observer.summary)
    elif as_json:
        print_json(run.report())


@app.command()
def front(run: RunArgument, budget: BudgetOption = None, as_json: JsonOption = False) -> None:
    """Show the Pareto front within a budget, and write its picture (front.png)."""
    opened = open_run_folder(run)
    limits = parse_budget(budget)
    records = opened.front_records(limits)
    if as_json:
        print_json([opened.trial(record.number).to_dict() for record in records])
        return
    from nas_distill.reports.plots import save_figure
    from nas_distill.reports.tables import front_table
    from nas_distill.study.reporting import constant_quality_note

    limited = opened.budget_of(limits).limits
    objectives, finalists = opened.config.search.objectives, opened.finalists()
    note = constant_quality_note(opened.metadata, opened.records)
    print_table(front_table(records, objectives, limits=limited, finalists=finalists, task=opened.task, note=note))
    picture = opened.folder.front_png
    if limits is not None:  # the run's own picture stays
        named = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(f"{name} {limit}" for name, limit in limits.items()))
        picture = picture.with_name(f"front-{named.strip('-')}.png")
    save_figure(opened.plot(limits), picture)
    typer.echo(f"Picture: {picture}")


@app.command()
def show(
    run: RunArgument,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="trial number, as in tables")],
    as_json: JsonOption = False,
) -> None:
    """Show a trial: architecture, costs, quality per rung, and result."""
    opened = open_run_folder(run).trial(trial)
    if as_json:
        print_json(opened.to_dict())
        return
    from nas_distill.reports.tables import trial_table

    print_table(trial_table(opened.record))


@app.command()
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show the state of a run, also while it runs."""
    from nas_distill.reports.formatting import duration, percent

    opened = open_run_folder(run)
    found = opened.status()
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if value is not None:
            name = key.removesuffix("_seconds_left").replace("_", " ")
            text = percent(value) if key == "best_quality" else str(value)
            line = f"{name}: about {duration(value)} left" if key.endswith("_seconds_left") else f"{name}: {text}"
            typer.echo(printable(line))


@app.command()
def distill(
    run: RunArgument,
    trial: TrialArgument = None,
    epochs: Annotated[float | None, typer.Option(help="length; the run's final.epochs unless given")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="train on labels only, for comparison")] = False,
    seed: Annotated[int | None, typer.Option(help="the run's unless given")] = None,
    via: Annotated[
        Assistants | None,
        typer.Option(help="assistant: the next larger member of the front (front), or its own best student (self)"),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Distil a trial in full and keep the student."""
    opened = _trial_or_best(open_run_folder(run, trust=trust), trial)
    with _observer(quiet or as_json) as observer, stoppable("The same command resumes from the last completed epoch."):
        student = opened.distill(
            epochs=epochs, taught=not labels, seed=seed, via=None if via is None else via.value, observer=observer
        )
    if as_json or not quiet:
        print_student(student, student.evaluate("val"), "val", as_json)


@app.command()
def mutual(
    run: RunArgument,
    trials: Annotated[list[int] | None, typer.Argument(metavar="[TRIAL]...", help="the finalists unless given")] = None,
    epochs: Annotated[float | None, typer.Option(help="length; the run's final.epochs unless given")] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Distil trials by mutual learning, each taught by the teacher and by the others; keep the students."""
    opened = open_run_folder(run, trust=trust)
    with _observer(quiet or as_json) as observer, stoppable("The same command resumes from the last completed epoch."):
        students = opened.distill_mutually(trials or None, epochs=epochs, observer=observer)
    for student in students:
        if as_json or not quiet:
            print_student(student, student.evaluate("val"), "val", as_json)


@app.command()
def evaluate(
    run: RunArgument,
    trial: TrialArgument = None,
    split: Annotated[str | None, typer.Option(help="test or val; test if the data has it, unless given")] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a finished student: quality, share of the teacher's quality, agreement, calibration error."""
    opened = open_run_folder(run, trust=trust)
    student = _trial_or_best(opened, trial).student()
    print_student(student, student.evaluate(split), split or opened.problem.data.splits[-1], as_json)


@app.command()
def export(
    run: RunArgument,
    trial: TrialArgument = None,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="onnxruntime, pytorch or package.module:Class; the run's unless given"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file; in the student's folder by default")
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a finished student for a runtime, compare the file with PyTorch on validation data, and time it."""
    opened = open_run_folder(run, trust=trust)
    result = _trial_or_best(opened, trial).student().export(output, runtime=runtime)
    if as_json:
        print_json(result)
        return
    parity, latency = result["parity"], result["latency"]
    samples = f"{result.get('samples', '')} samples".strip()
    same = f"same predictions for {parity['same_predictions']:.2%} of {parity['count']} {samples}, "
    from nas_distill.tasks import find_task

    predicted = "" if result["predicted_ms"] is None else f", predicted {result['predicted_ms']:.3f} ms"
    typer.echo(
        f"{result['path']}: {result['bytes']:,} bytes, logits differ by at most {parity['max_abs_difference']:.2g}, "
        f"{same if find_task(opened.task).same else ''}"
        f"{latency['p50_ms']:.3f} ms (p95 {latency['p95_ms']:.3f} ms{predicted}) on {latency['conditions']}"
    )


@app.command()
def card(run: RunArgument) -> None:
    """Print the card of a run's student: quality, costs, training, and how to load it."""
    typer.echo(printable(open_run_folder(run).card()), nl=False)


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(help="a shipped space, or a space file")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the search spaces, or describe one: parameters, values, size."""
    from nas_distill.reports.tables import space_table
    from nas_distill.spaces import load_space
    from nas_distill.spaces.catalog import names

    if name is None:
        found = {known: load_space(known) for known in names()}
        if as_json:
            print_json({known: {"about": space.about, "size": space.size().count} for known, space in found.items()})
            return
        for known, space in found.items():
            typer.echo(f"{known:10} {space.size()}  {space.about}")
        return
    space = load_space(name, [Path.cwd()])
    if as_json:
        print_json({**space.to_dict(), "size": space.size().count, "exact": space.size().exact})
    else:
        print_table(space_table(space))


@app.command()
def teach(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="teach file, e.g. runs/fashion-teacher.yaml")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a teacher on labels only, by the same loop that distils students; resumes where it was stopped."""
    from nas_distill.distill.teach import TeachProgress
    from nas_distill.study.start import teach_file

    def print_epoch(done: TeachProgress) -> None:
        if not (quiet or as_json):
            typer.echo(f"epoch {done.epoch}/{done.epochs}: validation {done.quality:.2%}, {done.seconds:.0f} s")

    with stoppable("The same command resumes from the last completed epoch."):
        output, evaluation, split = teach_file(file, on_epoch=print_epoch)
    if as_json:
        print_json({"teacher": str(output), "split": split, **vars(evaluation)})
    elif not quiet:
        typer.echo(f"{output}: {evaluation.quality:.2%} on {evaluation.count:,} {split} samples")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="file to write")] = Path("search.yaml"),
) -> None:
    """Write a commented search file to start from."""
    from nas_distill.cli.template import write_template

    write_template(file)
    typer.echo(f"Wrote {file}; edit it, then: nas-distill search {file} --dry-run")


@store_app.command("verify")
def store_verify(
    run: RunArgument,
    samples: Annotated[int, typer.Option(help="stored answers to recompute")] = 256,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a run's stored teacher logits with the live teacher's."""
    opened = open_run_folder(run, trust=trust)
    found = opened.verify_store(samples)
    if as_json:
        print_json(found)
        return
    from nas_distill.tasks import find_task

    same = find_task(opened.task).same
    typer.echo(
        f"{found.samples} stored answers: largest difference {found.max_difference:.2g}"
        + (f", {same} for {found.same_class:.2%}" if same else "")
    )


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"nas-distill {__version__}")
        raise typer.Exit


def _trial_or_best(run: Run, trial: int | None) -> Trial:
    return run.best() if trial is None else run.trial(trial)


def _observer(quiet: bool) -> ConsoleObserver:
    from nas_distill.study.observer import ConsoleObserver

    return ConsoleObserver(quiet=quiet)


@app.command()
def assemble(
    run: RunArgument,
    budget: BudgetOption = None,
    count: Annotated[int, typer.Option(min=1, help="assemblies to show")] = 10,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find students for another budget without training.

    For runs of strategy allocate (cuts that spend the budget, judged before training), and of blockwise or hybrid
    (assemblies of distilled blocks; to train these, search with blockwise: {library: RUN/blocks}).
    """
    opened = open_run_folder(run, trust=trust)
    found = opened.assemble(parse_budget(budget), count=count, quiet=True)
    if as_json:
        print_json([entry.row() for entry in found])
    else:
        _print_assemblies(found, opened)


def _print_assemblies(found: list[CountedAssembly], run: Run) -> None:
    from nas_distill.reports import formatting
    from nas_distill.reports.tables import add_columns, add_row, new_table
    from nas_distill.tasks import find_task

    allocated = run.config.search.strategy == "allocate"
    table = new_table("Students for this budget, best first")
    names = list(found[0].predicted)
    scores = ["divergence"] if allocated else ["local score", "expected"]
    add_columns(table, ["blocks"], [*scores, *names, "trial"])
    table.columns[0].no_wrap = False
    table.columns[0].overflow = "fold"  # a truncated name would hide widths
    for entry in found:
        costs = [formatting.cost(name, entry.costs[name]) for name in names]
        trial = formatting.NONE if entry.trial is None else str(entry.trial)
        shown = [f"{entry.score:.4g}", *([] if allocated else [formatting.percent(entry.expected)])]
        add_row(table, [" ".join(entry.blocks), *shown, *costs, trial])
    print_table(table)
    if allocated:
        typer.echo("Divergence: from the teacher's answers before training, in nats; lower is better.")
        return
    typer.echo("Local score: the sum of losses over the blocks; lower is better.")
    if found[0].expected is None:
        typer.echo("Expected quality is not known yet: too few trials of these blocks completed.")
    else:
        typer.echo(f"Expected: {find_task(run.task).quality_name} of a short distillation, fitted to completed trials.")


@app.command()
def calibrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="search file with the space and trainings to examine")],
    count: Annotated[int, typer.Option(help="architectures to train")] = 24,
    workers: Annotated[int | None, typer.Option(help="trainings in parallel")] = None,
    folder: Annotated[Path | None, typer.Option(help="folder of the results; next to the file unless given")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume the calibration in that folder")] = False,
    whole_range: Annotated[
        bool, typer.Option("--whole-range", help="draw from the whole space, not only within the budget")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document instead of a table")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")] = False,
) -> None:
    """Compare short scores with full distillations of sampled architectures, and advise the search.

    Ctrl-C once stops cleanly; --resume continues.
    """
    from nas_distill.study.calibration import calibrate as run_calibration
    from nas_distill.study.observer import ConsoleObserver

    with ConsoleObserver(quiet=quiet or as_json) as observer:
        found = run_calibration(
            file,
            count=count,
            whole_range=whole_range,
            folder=folder,
            resume=resume,
            observer=observer,
            workers=workers,
        )
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        _print_calibration(found)


def _print_calibration(found: Calibration) -> None:
    from rich.table import Table

    from nas_distill.calibration.report import figure
    from nas_distill.calibration.scores import Figure

    table = Table(title=f"Rank correlation of scores with the full distillation of {found.networks} architectures")
    for header in ("score", "tau", "95 % interval", "best fifth found", "seconds"):
        table.add_column(header, justify="left" if header == "score" else "right")
    for entry in found.rankings:
        if entry.early or entry.figure is Figure.LAST:  # only in the report
            continue
        interval = "-" if entry.interval is None else f"{entry.interval[0]:.2f} to {entry.interval[1]:.2f}"
        table.add_row(entry.name, figure(entry.tau), interval, f"{entry.recall:.0%}", figure(entry.seconds, 1))
    print_table(table)
    for reason in () if found.advice is None else found.advice.reasons:
        typer.echo(f"- {reason}")
    typer.echo(f"Report: {found.report}\nAdvice: {found.advice_file}; a search uses it with --calibration")
