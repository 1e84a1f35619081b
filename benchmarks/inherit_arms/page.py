"""The page of benchmarks/inherit.py, of whatever there is; what is missing is shown as missing."""

from __future__ import annotations

from collections.abc import Sequence

from common import spread, table

from inherit_arms.arms import ARMS, FASTNAS, GAPS, INHERITED, RATES, STARTS, Arm
from inherit_arms.networks import CUTTING
from inherit_arms.prepared import LOOK
from inherit_arms.searches import LEAST
from inherit_arms.study import RATES_LIMIT, RATES_SHARE, Study, rate_key
from inherit_arms.tested import Tested, Tests, difference
from nas_distill.costs import format_cost
from nas_distill.export.student import load_student

MISSING = "-"
TEACHER = "teacher"


def page(study: Study) -> list[str]:
    """Evaluate what was trained and not yet looked at, and return the page's parts."""
    tests = Tests(study.data, study.folder / "evaluations.json")
    if study.data.test is not None:
        tests.look(TEACHER, study.teacher.module)
    for key in study.finished:
        tests.look(key, load_student(study.student(key)))
    found = {
        (arm.letter, limit): tests.of([study.key(arm, limit, place) for place in range(study.options.seeds)])
        for arm in ARMS.values()
        for limit in study.limits
    }
    teacher = tests.of([TEACHER])
    assert teacher is not None
    parts = [*_unfinished(study), _about(study, teacher)]
    for limit, share in study.limits.items():
        parts += [f"## {share:.0%} of the teacher's FLOPs", _table(study, limit, found, teacher), _gaps(limit, found)]
    return [
        *parts,
        *_aim(study, found),
        "## Learning rates",
        _rates(study),
        *_peer(study),
        "## Networks",
        _networks(study),
    ]


Found = dict[tuple[str, str], Tested | None]


def _unfinished(study: Study) -> list[str]:
    done, total = len(study.finished), len(ARMS) * len(study.limits) * study.options.seeds
    if done == total:
        return []
    return [f"**Not finished**: {done} of {total} last trainings are done; `{MISSING}` is what is missing."]


def _about(study: Study, teacher: Tested) -> str:
    data, options = study.data, study.options
    flops = format_cost("flops", study.teacher_costs["flops"])
    return f"""{data.name}: {len(data.train):,} training, {len(data.val):,} validation and {teacher.correct.shape[1]:,}
test images, {data.views.count} views; the teacher saw none of the validation and test images. It has {flops} FLOPs (a
multiply-add is one) and {teacher.mean:.2%} test accuracy.

Every arm may see {options.images:,} training images in all. An image counts one each time that a step is taken on it,
and {LOOK:.2g} where a network is only shown it (FastNAS's scores and calibration, importance, moments of inputs,
batch-norm statistics). What its search used, its last training lacks. Of (d) and (e) an image that blocks are distilled
on counts once for all alternatives, and a look once for each; all their searches share one library of blocks, but each
counts it as its own. The searches, FastNAS's too, were run once a limit, on one thread, the last trainings under
{options.seeds} seeds. All have the same stored answers of the teacher, nas_distill's own KD, and SGD; the learning rate
is chosen by validation accuracy for each kind of start, not for each arm. Searches choose by validation accuracy
(FastNAS by that on held-out training images); test data chose nothing.

*Reconstructed* students have weights, before any training, that compensate for what was cut (a least-squares
prediction of the lost inputs of each layer; docs/from-teacher.md); (a) and (i) have the teacher's as they were. Our
searches judge candidates without training first, and these use at least {LEAST:.0%} of the limit. Units of (h) and (i)
are kept by the criterion of the searched ones (`{CUTTING.importance}`), so that (c) - (h) is of architecture only; (g)
has as many images in its last training as (a), so that (a) - (g) is of weights only."""


def _table(study: Study, limit: str, found: Found, teacher: Tested) -> str:
    rows = []
    for arm in ARMS.values():
        tested = found[arm.letter, limit]
        had = study.prepared(arm, limit)
        if had is None:
            rows.append([arm.letter, arm.about, *[MISSING] * 7])
            continue
        share = had.costs["flops"] / study.teacher_costs["flops"]
        rows.append(
            [
                arm.letter,
                arm.about,
                MISSING if tested is None else _accuracy(tested, study.options.seeds),
                MISSING if tested is None else f"{tested.mean / teacher.mean:.2%}",
                f"{share:.1%}",
                format_cost("params", had.costs["params"]) if "params" in had.costs else MISSING,
                f"{had.seconds:.0f}",
                f"{had.trained:,} + {had.looks:,}",
                f"{study.last_steps(arm, limit) * study.batch:,}",
            ]
        )
    headers = ["", "arm", "test accuracy", "of the teacher's", "FLOPs", "params", "search, s"]
    return table([*headers, "images, search: trained + shown", "images, last training"], rows)


def _accuracy(tested: Tested, seeds: int) -> str:
    values = tested.accuracies
    of = "" if len(values) == seeds else f" [{len(values)} of {seeds} seeds]"
    return f"{spread(values)}{of}"


def _gaps(limit: str, found: Found) -> str:
    rows = []
    for one, other, meaning in GAPS:
        ours, theirs = found[one, limit], found[other, limit]
        if ours is None or theirs is None:
            rows.append([f"({one}) - ({other})", meaning, MISSING, ""])
            continue
        gap, error = difference(ours, theirs)
        word = "a tie" if abs(gap) <= 2 * error else ("more" if gap > 0 else "less")
        rows.append([f"({one}) - ({other})", meaning, f"{100 * gap:+.2f} ± {100 * error:.2f}", word])
    return table(["difference", "which is", "points, ± standard error", ""], rows)


def _aim(study: Study, found: Found) -> list[str]:
    """Say how far the best of our arms is above the peer at each limit."""
    told = []
    for limit, share in study.limits.items():
        peer = found["a", limit]
        ours = {letter: tested for letter in "cde" if (tested := found[letter, limit]) is not None}
        if peer is None or not ours:
            continue
        gains = {letter: difference(tested, peer) for letter, tested in ours.items()}
        best = max(gains, key=lambda letter: gains[letter])
        gain, error = gains[best]
        told.append(
            f"- At {share:.0%} the best of {', '.join(f'({letter})' for letter in ours)} is ({best}), "
            f"{100 * gain:+.2f} ± {100 * error:.2f} points against (a)."
        )
    tie = """A difference within two standard errors (of test images, paired, and of seeds together) is called a tie.
The seeds are those of the last trainings: each search was run once per limit, so the error of a comparison of searches
leaves out what another seed of the search would have found. The best of three arms is named after the figures were
seen, which favours it."""
    return [tie, "\n".join(told)] if told else [tie]


def _rates(study: Study) -> str:
    rows = []
    for start in STARTS:
        cells = []
        for rate in RATES:
            key = rate_key(start, rate)
            quality = study.book[key]["quality"] if key in study.book else None
            shown = MISSING if quality is None else f"{quality:.2%}"
            cells.append(f"**{shown}**" if rate == study.rate(start) else shown)
        rows.append([start, *cells])
    text = f"""Validation accuracy of the uniformly narrowed teacher at {RATES_LIMIT:.0%} of its FLOPs after
{RATES_SHARE * study.options.images:,.0f} images, for each kind of start, by a seed of its own; what was chosen is in
bold."""
    return f"{text}\n\n{table(['start', *map(str, RATES)], rows)}"


def _peer(study: Study) -> list[str]:
    if study.options.peer is None or not any(study.peer.there(limit) for limit in study.limits):
        return []
    rows = []
    for limit in study.limits:
        if not study.peer.there(limit):
            continue
        found = study.peer.found(limit)
        last, first = found["attempts"][-1], found["attempts"][0]
        rows.append(
            [
                f"{study.limits[limit]:.0%}",
                len(found["attempts"]),
                format_cost("flops", first["flops"]),
                format_cost("flops", found["flops"]),
                format_cost("flops", last["counted_by_it"]) if last["counted_by_it"] else MISSING,
                f"{last['teacher_score']:.1%}",
                f"{last['score']:.1%}",
                found["divisor"],
                len(last["sensitivity"]),
                "; ".join(last["notes"]) or "none",
            ]
        )
    headers = ["limit", "attempts", "FLOPs, first", "FLOPs, last", "by its own count", "teacher's score", "its score"]
    text = """*Attempts*: a result over the limit by nas_distill's count is searched again under a tighter one. Scores
are accuracy on held-out training images, which the teacher was trained on, after batch-norm calibration and before any
training. Widths are multiples of *divisor* (all others' of 8; with coarser ones it leaves more of the limit unused). It
measures one group of channels at a time, and binary-searches one threshold for all of them."""
    return ["## What FastNAS did", text, table([*headers, "divisor", "groups", "warnings"], rows)]


def _networks(study: Study) -> str:
    rows: list[Sequence[object]] = []
    for limit, share in study.limits.items():
        for arm in ARMS.values():
            had = study.prepared(arm, limit)
            rows.append([f"{share:.0%}", _name(arm), MISSING if had is None else had.shown])
    text = "Of (a), (b), (g), (h) and (i): channels of the stem, and of each block inside and behind it."
    return f"{text}\n\n{table(['limit', 'arm', 'architecture'], rows)}"


def _name(arm: Arm) -> str:
    weights = "" if arm.widths != FASTNAS or arm.start == INHERITED else ", as (a)"
    return f"({arm.letter}){weights}"
