"""The page on trust: every figure and every answer on it comes of the table of the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nas_distill.calibration.advice import Advice, advise, distilled_kinds
from nas_distill.calibration.report import difference_text, figure, ranking_table
from nas_distill.calibration.sampling import Network
from nas_distill.calibration.scores import (
    BAND,
    CONSTANT,
    FULL,
    Difference,
    Figure,
    Ranking,
    Score,
    Study,
    all_scores,
    by_space,
    ceiling,
    difference,
    rank,
    read_out,
)
from nas_distill.calibration.trainings import Reading
from nas_distill.config import FinalConfig, PruningConfig, ScoreConfig, SearchFile
from nas_distill.reports import formatting as words
from nas_distill.reports.formatting import markdown_table
from nas_distill.study.calibration import all_stoppings, stopping_table

Found = Mapping[str, Difference | None]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Asked = Callable[[Study], Score | None]
PICKS = (1, 2, 3, 5)
FEATURES = "kd+at"
SLOPES = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
FEWEST_WITHIN = 8  # networks within a budget that a choice among them is looked at
# What the search did before it was compared with this table; the page says what it does now.
BEFORE: dict[str, Any] = {
    "score.epochs": 3.0,
    "score.rungs": (1 / 9, 1 / 3, 1.0),
    "score.ema": 0.05,
    "score.decay": "cosine",
    "search.pruning.margin": 0.005,
    "final.count": 3,
    "final.slope": 0.0,
}


def trust_page(readings: Sequence[Reading], networks: Sequence[Network], config: SearchFile, *, command: str) -> str:
    """Return the page; what the table cannot say yet is said to be so."""
    studies = {space: study for space, study in by_space(readings).items() if rank(study, _flops(study)) is not None}
    parts = ["# How far may a short distillation be trusted?", _about(readings, networks, config, command)]
    if not studies:
        return "\n\n".join([*parts, "There are too few finished trainings to say anything yet."]) + "\n"
    costs = {network.name: network.costs for network in networks}
    advice = {
        space: found
        for space, study in studies.items()
        if (found := advise(study, [costs[name] for name in study.networks], ("flops",))) is not None
    }
    parts += [
        _questions(studies),
        "## What it costs, and what follows for the search",
        _worth(studies, advice),
        _defaults(advice),
        _finalists(studies),
        "## How often stopping early is wrong",
        _stopping_text(studies, costs),
        "## Every score",
        "τ is Kendall's τ-b with full distillation, a mean over its seeds, with its 95 % bootstrap interval over "
        f"architectures; once more among pairs less than {BAND} times apart in FLOPs. `kd@r`, `ce@r`: runs of r epochs "
        "with a schedule of their own, taught or on labels. `kd-constant`: a constant rate. `full, read at r`: the "
        "full distillation on its way, compared with the other seed. TSE: the sum of training losses (Ru et al., "
        "NeurIPS 2021), its sign turned. `kd-ce`: what the teacher gained. Fit: least squares on the score and the "
        "logarithms of FLOPs and parameters, each architecture predicted from all others.",
    ]
    for space, study in studies.items():
        parts += [f"### {space}", ranking_table(rank(study, score) for score in all_scores(study))]
    return "\n\n".join(parts) + "\n"


def _about(readings: Sequence[Reading], networks: Sequence[Network], config: SearchFile, command: str) -> str:
    trainings = {entry.training for entry in readings}
    failed = {entry.training for entry in readings if entry.cause}
    seconds = {entry.training: entry.seconds for entry in readings if entry.final}
    total = sum(value for value in seconds.values() if np.isfinite(value))
    spaces: dict[str, list[Network]] = {}
    for network in networks:
        spaces.setdefault(network.name.rpartition("-")[0], []).append(network)
    reach = "; ".join(
        f"{len(found)} of `{space}` from {_amount(min(entry.costs['flops'] for entry in found))} to "
        f"{_amount(max(entry.costs['flops'] for entry in found))}"
        for space, found in sorted(spaces.items())
    )
    lengths = sorted({entry.of for entry in readings if entry.kind.startswith("kd@")})
    short = " or ".join(f"{epochs:g}" for epochs in lengths) or "fewer"
    done = len({entry.network for entry in readings})
    return (
        f"Architectures, evenly spread over the logarithm of their multiply-adds: {reach}. Trained on Fashion-MNIST's "
        "embedded subset of 12,000 training images with a shipped teacher; quality is accuracy on its 2,000 validation "
        f"images. A full training has {config.final.training.epochs:g} epochs, a short run {short}. So far "
        f"{len(trainings)} trainings of {done} architectures ({len(failed)} failed), "
        f"{words.duration(total)} of training on one core. Figures and answers below are worked out from "
        f"[the table](benchmarks/ground_truth.csv) by `{command}`, {date.today().isoformat()}.\n\n"
        "One data set, small and grey, and short full trainings: what is said here is said of that. "
        "`nas-distill calibrate FILE` measures the same on your own space and data."
    )


def _questions(studies: Mapping[str, Study]) -> str:
    shortest = min(epochs for study in studies.values() for epochs in distilled_kinds(study))
    longest = max(epochs for study in studies.values() for epochs in distilled_kinds(study))
    budgets = sorted({shortest, longest})
    rows: list[list[str]] = []
    said: list[str] = []

    def ask(question: str, one: Asked, other: Asked, labels: bool = False) -> None:
        found = {
            space: difference(study, one(study), other(study), study.labels if labels else None)
            for space, study in studies.items()
        }
        rows.append([question, *(difference_text(found[space]) for space in studies), _verdict(found)])

    def kind(name: str, epochs: float | None = None, read: Figure = Figure.QUALITY) -> Asked:
        return lambda study: _score(study, name, epochs, read)

    for budget in budgets:
        at = f"{budget:.4g}"
        ask(f"KD over CE, {at} epochs, for the distilled student", kind(f"kd@{at}"), kind(f"ce@{at}"))
        ask(f"KD over CE, {at} epochs, for the student trained on labels", kind(f"kd@{at}"), kind(f"ce@{at}"), True)
        ask(f"a schedule of its own over a constant rate, {at} epochs", kind(f"kd@{at}"), kind(CONSTANT, budget))
        ask(
            f"a schedule of its own over the full run on its way, {at} epochs",
            kind(f"kd@{at}"),
            kind(FULL, budget),
        )
        ask(f"averaged over last weights, {at} epochs", kind(f"kd@{at}"), kind(f"kd@{at}", None, Figure.LAST))
        ask(f"averaged over last weights at a constant rate, {at} epochs", kind(CONSTANT, budget),
            kind(CONSTANT, budget, Figure.LAST))  # fmt: skip
        ask(f"accuracy over TSE, {at} epochs", kind(f"kd@{at}"), kind(f"kd@{at}", None, Figure.LOSS))
        ask(f"KD over FLOPs only, {at} epochs", kind(f"kd@{at}"), _flops)
        ask(f"KD and costs together over KD only, {at} epochs", _fitted(f"kd@{at}"), kind(f"kd@{at}"))
    if len(budgets) > 1:
        ask(
            f"a schedule of its own over a rung of the {longest:.4g}-epoch run, {shortest:.4g} epochs",
            kind(f"kd@{shortest:.4g}"),
            kind(f"kd@{longest:.4g}", shortest),
        )
        ask(f"{longest:.4g} epochs over {shortest:.4g}, KD", kind(f"kd@{longest:.4g}"), kind(f"kd@{shortest:.4g}"))
    ask(f"KD with a feature term (AT) over KD, {shortest:.4g} epochs", kind(f"{FEATURES}@{shortest:.4g}"),
        kind(f"kd@{shortest:.4g}"))  # fmt: skip
    said.append(
        "## Answers\n\nHow much larger τ is (95 % interval over architectures, paired). Only where the interval leaves "
        "out 0 is anything decided."
    )
    said.append(markdown_table(["does it rank better?", *studies, "answer"], rows))
    said += [_ceiling_text(studies), _band_text(studies, budgets)]
    return "\n\n".join(said)


def _verdict(found: Found) -> str:
    known = {space: value for space, value in found.items() if value is not None}
    if not known:
        return "not measured yet"
    better = [space for space, value in known.items() if value.sure and value.tau > 0]
    worse = [space for space, value in known.items() if value.sure and value.tau < 0]
    if better and worse:
        return f"yes in {', '.join(better)}, no in {', '.join(worse)}"
    for word, which in (("yes", better), ("no, worse", worse)):
        if which:
            return word if len(which) == len(known) and len(known) > 1 else f"{word} in {', '.join(which)}"
    return "not decided"


def _ceiling_text(studies: Mapping[str, Study]) -> str:
    said = []
    for space, study in studies.items():
        top = _first([rank(study, score) for score in ceiling(study)])
        labels = {seed: values for seed, values in study.target.items() if seed != 0}
        cross = rank(study, Score("labels", {None: study.labels[0]}), labels or None) if study.labels else None
        gained = study.full_quality() - study.labels[0] if study.labels else np.array([np.nan])
        said.append(
            f"`{space}`: one seed's full distillation ranks another's with τ = {_tau(top)} "
            f"({_tau(top, band=True)} among those of about equal cost); qualities differ by "
            f"{words.percent(study.noise())} between seeds. Full training on labels ranks it with τ = {_tau(cross)}; "
            f"the teacher gives {words.points(float(np.nanmean(gained)))} on average, from "
            f"{words.points(float(np.nanmin(gained)))} to {words.points(float(np.nanmax(gained)))}."
            if np.isfinite(gained).any()
            else f"`{space}`: one seed's full distillation ranks another's with τ = {_tau(top)}."
        )
    return "**What can be asked for at most.** " + " ".join(said)


def _band_text(studies: Mapping[str, Study], budgets: Sequence[float]) -> str:
    said = []
    for space, study in studies.items():
        flops = rank(study, _flops(study))
        shorts = [(budget, _ranked(study, f"kd@{budget:.4g}")) for budget in budgets]
        text = ", ".join(f"{_tau(found)} and {_tau(found, band=True)} after {budget:.4g}" for budget, found in shorts)
        best = max((_band(found) for _, found in shorts), default=-1.0)
        which = "a short score ranks better" if best > _band(flops) else "no short score ranks better"
        said.append(
            f"`{space}`: FLOPs rank with τ = {_tau(flops)} over the whole range and {_tau(flops, band=True)} in the "
            f"band; KD with {text} epochs; in the band {which}."
        )
    return (
        f"**FLOPs only, and among networks of about equal cost** (pairs less than {BAND} times apart, which is where "
        "a search under a budget has to choose). " + " ".join(said)
    )


def _worth(studies: Mapping[str, Study], advice: Mapping[str, Advice]) -> str:
    rows = []
    for space, study in studies.items():
        for epochs, kind in distilled_kinds(study).items():
            found = _ranked(study, kind)
            if found is not None:
                rows.append([space, f"{epochs:.4g}", figure(found.tau), figure(found.band), f"{found.recall:.0%}",
                             words.NONE if found.share is None else f"{found.share:.0%}"])  # fmt: skip
    headers = ["space", "epochs", "τ", "τ in the band", "best fifth found", "of a full distillation's time"]
    reasons = [f"- `{space}`: {reason}" for space, found in advice.items() for reason in found.reasons]
    return "\n\n".join(
        [markdown_table(headers, rows), "What `nas-distill calibrate` advises on this:", "\n".join(reasons)]
    )


def _defaults(advice: Mapping[str, Advice]) -> str:
    """Hold what the search does against what it did before, and against what the table advises for each space."""
    score, now = ScoreConfig(), {}
    now = {
        "score.epochs": score.training.epochs,
        "score.rungs": score.rungs,
        "score.ema": score.training.ema,
        "score.decay": score.training.decay,
        "search.pruning.margin": PruningConfig().margin,
        "final.count": FinalConfig().count,
        "final.slope": FinalConfig().slope,
    }
    rows = []
    for key, before in BEFORE.items():
        changed = _plain(before) != _plain(now[key])
        wanted = [_plain(_look_up(found.keys, key)) for found in advice.values()]
        rows.append([f"`{key}`", _plain(before), f"**{_plain(now[key])}**" if changed else _plain(now[key]), *wanted])
    changed_keys = [row[0] for row in rows if row[2].startswith("**")]
    said = (
        f"Changed on this table: {', '.join(changed_keys)}."
        if changed_keys
        else "No default has been changed on it so far."
    )
    headers = ["key", "before", "now", *(f"advised, {space}" for space in advice)]
    about = f"### Defaults\n\n{said} A dash: the table has no reason to say otherwise."
    return "\n\n".join([about, markdown_table(headers, rows)])


def _finalists(studies: Mapping[str, Study]) -> str:
    """Return the loss from distilling only the best few in full, by short score and cost, over many budgets."""
    rows = []
    for space, study in studies.items():
        for kind in distilled_kinds(study).values():
            short, full_quality = study.column(kind, study.length(kind)), study.full_quality()
            known = np.isfinite(short) & np.isfinite(full_quality)
            for slope in SLOPES:
                expected = short[known] + slope * np.log2(study.flops[known])
                lost = _lost(expected, full_quality[known], study.flops[known])
                rank_of_both = kendalltau(expected, full_quality[known]).statistic
                rows.append([space, kind, f"{slope:g}", f"{rank_of_both:.2f}", *(f"{100 * loss:.2f}" for loss in lost)])
    headers = ["space", "score", "slope", "τ", *(f"best {count}" for count in PICKS)]
    return "\n\n".join(
        [
            "### Finalists\n\nFinalists are those of the highest short score plus `final.slope` for each doubling of "
            "FLOPs. What is lost, in points of full quality, when only the best of them are distilled in full and the "
            "best of these is taken: a mean over budgets, one at the FLOPs of each network that at least "
            f"{FEWEST_WITHIN - 1} others are within. The slope is chosen for both spaces together and for "
            "the search's own length of a score.",
            markdown_table(headers, rows),
        ]
    )


def _lost(expected: Floats, full_quality: Floats, flops: Floats) -> list[float]:
    """Return for each of ``PICKS`` the quality that the best so many by ``expected`` miss, a mean over budgets."""
    losses = []
    for limit in np.sort(flops)[FEWEST_WITHIN - 1 :]:
        within = np.flatnonzero(flops <= limit)
        order = within[np.argsort(-expected[within], kind="stable")]
        losses.append([full_quality[within].max() - full_quality[order[:count]].max() for count in PICKS])
    return [float(loss) for loss in np.mean(losses, axis=0)]


def _stopping_text(studies: Mapping[str, Study], costs: Mapping[str, Mapping[str, float]]) -> str:
    parts = [
        "A candidate stops when one that costs no more is better at the rung by more than the margin; here as if all "
        "had reported before, which in a search holds only for the last candidate. Of the front: how many of those "
        "that nothing beats after full distillation would have been stopped. Largest loss: what the worst of these "
        "stops costs against the best that is left and costs no more; a loss below the noise between seeds is none."
    ]
    for space, study in studies.items():
        found = all_stoppings(study, [costs[name] for name in study.networks], ("flops",))
        noise = study.noise()
        harmful = [entry for entry in found if entry.found.loss > (noise or 0.0)]
        parts += [
            f"### Stopping in {space}",
            f"{len(found) - len(harmful)} of {len(found)} combinations of run, rung and margin stop nothing of the "
            f"front that is better than what is left by more than the noise, {words.percent(noise)}.",
            stopping_table(found),
        ]
    return "\n\n".join(parts)


def _flops(study: Study) -> Score:
    return Score("FLOPs", {None: np.log(study.flops)}, 0.0)


def _score(study: Study, kind: str, epochs: float | None = None, read: Figure = Figure.QUALITY) -> Score | None:
    if kind not in study.kinds() or (epochs is not None and epochs not in study.epochs(kind)):
        return None
    return read_out(study, kind, epochs, read)


def _ranked(study: Study, kind: str) -> Ranking | None:
    score = _score(study, kind)
    return None if score is None else rank(study, score)


def _fitted(kind: str) -> Asked:
    def score(study: Study) -> Score | None:
        found = _score(study, kind)
        return None if found is None else found.with_costs()

    return score


def _tau(found: Ranking | None, *, band: bool = False) -> str:
    return words.NONE if found is None else figure(found.band if band else found.tau)


def _band(found: Ranking | None) -> float:
    return -1.0 if found is None or found.band is None else found.band


def _first(found: Sequence[Ranking | None]) -> Ranking | None:
    return next((entry for entry in found if entry is not None), None)


def _look_up(keys: Mapping[str, Any], path: str) -> Any:
    value: Any = keys
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _plain(value: Any) -> str:
    if value is None:
        return words.NONE
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def _amount(flops: float) -> str:
    return words.cost("flops", flops)
