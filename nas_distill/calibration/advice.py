"""Advice of a calibration for a search: short schedule, rungs, margin and slope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nas_distill.calibration.pruning_replay import ReplayResult, replay_pruning
from nas_distill.calibration.rank_statistics import cost_slope
from nas_distill.calibration.report import difference_text, figure
from nas_distill.calibration.sampling import CONSTANT
from nas_distill.calibration.scores import Figure, Ranking, Score, Study, common, difference, rank, read_out
from nas_distill.config import FinalConfig, ScoreConfig, SearchConfig, parse, read_yaml
from nas_distill.utils.errors import ConfigError

MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04)
_SECTIONS: dict[str, type[ScoreConfig | SearchConfig | FinalConfig]] = {
    "score": ScoreConfig,
    "search": SearchConfig,
    "final": FinalConfig,
}


@dataclass(frozen=True)
class Advice:
    """Advised keys of a search file, as nested mappings, and the ``reasons`` in sentences."""

    keys: dict[str, Any]
    reasons: tuple[str, ...]

    def yaml(self) -> str:
        """Return it as the text of a file for the key ``calibration``."""
        lines = [line for reason in self.reasons for line in _wrapped(reason)]
        about = "# Advice of a calibration; a search uses it with 'calibration: <this file>' or --calibration.\n#\n"
        return about + "\n".join(lines) + "\n" + yaml.safe_dump(self.keys, sort_keys=False)


@dataclass(frozen=True)
class StoppingResult:
    """Effect of a margin at ``rungs`` (epochs) of a short run of ``epochs``."""

    epochs: float
    rungs: tuple[float, ...]
    margin: float
    found: ReplayResult


def distilled_kinds(study: Study) -> dict[float, str]:
    """Return the kinds of short distillation by their length in epochs, rising."""
    kinds = [kind for kind in study.kinds() if kind.startswith("kd@")]
    return {study.length(kind): kind for kind in sorted(kinds, key=study.length)}


def replay_stopping(
    study: Study,
    kind: str,
    rungs: Sequence[float],
    margin: float,
    costs: Sequence[Mapping[str, float]],
    names: Sequence[str],
) -> StoppingResult | None:
    """Replay the dominance rule at rungs of a kind of short run; None where fewer than two networks have all readings.

    ``costs`` has an entry per network of the study; ``names`` are the cost objectives.
    """
    full_quality = study.full_quality()
    columns = [study.column(kind, epochs) for epochs in rungs]
    complete = np.all([np.isfinite(values) for values in (full_quality, *columns)], axis=0)
    known = [int(index) for index in np.flatnonzero(complete)]
    if len(known) < 2 or not rungs:
        return None
    found = replay_pruning(
        [costs[index] for index in known], [column[known] for column in columns], full_quality[known], margin, names
    )
    return StoppingResult(study.length(kind), tuple(rungs), margin, found)


def advise(study: Study, costs: Sequence[Mapping[str, float]], names: Sequence[str]) -> Advice | None:
    """Return advice for a search in the space of a study; None where too few networks were trained.

    Length: the shortest whose tau is significantly above 0 and within one standard error of the best length's (Breiman
    et al., 1984). Margin: the smallest at which stopping members of the front loses no more quality than the standard
    deviation between seeds. Rungs: those at which that margin stops any network.
    """
    scores = {epochs: read_out(study, kind) for epochs, kind in distilled_kinds(study).items()}
    among = common(study, list(scores.values()))
    ranked = {epochs: rank(study, score, among=among) for epochs, score in scores.items()}
    lengths = {epochs: found for epochs, found in ranked.items() if found is not None and found.tau is not None}
    if not lengths:
        return None
    epochs, reasons = _length(lengths)
    kind = distilled_kinds(study)[epochs]
    rungs, margin, why = _rungs(study, kind, costs, names)
    keys: dict[str, Any] = {"score": {"epochs": epochs, "rungs": [float(f"{at / epochs:.4g}") for at in rungs] + [1.0]}}
    if margin is not None:
        keys["search"] = {"pruning": {"margin": margin}}
    reasons += why
    for key, value, name, other in (
        ("ema", 0.0, "last weights instead of averaged ones", read_out(study, kind, figure=Figure.LAST)),
        ("decay", "constant", "a constant learning rate instead of an annealed one", _constant(study, epochs)),
    ):
        changed = difference(study, other, scores[epochs])
        if changed is not None and changed.sure and changed.tau > 0:
            keys["score"][key] = value
        if changed is not None:
            decision = "advised" if key in keys["score"] else "not advised, since it does not rank significantly better"
            reasons.append(f"{name}: tau {difference_text(changed)}, {decision}.".capitalize())
    keys |= _slope(study, kind, costs, names[0], reasons)
    reasons += _caveats(study, kind, scores[epochs])
    return Advice(keys, tuple(reasons))


def load_advice(path: Path) -> dict[str, Any]:
    """Read the keys that a calibration advises.

    Raises:
        ConfigError: the file is missing or is not advice.
    """
    content = read_yaml(path)
    for section, value in content.items():
        if section not in _SECTIONS or not isinstance(value, Mapping):
            raise ConfigError(
                f"{path}: '{section}' is not advice of a calibration (keys of {' and '.join(_SECTIONS)}); "
                "give the advice.yaml that 'nas-distill calibrate' wrote."
            )
        parse(_SECTIONS[section], value, source=f"{path}: {section}")
    return content


def with_advice(content: Mapping[str, Any], advice: Mapping[str, Any]) -> dict[str, Any]:
    """Return a search file's content, with advised values for the keys that it does not set."""
    merged = dict(content)
    for key, value in advice.items():
        if isinstance(value, Mapping):
            merged[key] = with_advice(merged.get(key) or {}, value)
        else:
            merged.setdefault(key, value)
    return merged


def _length(lengths: Mapping[float, Ranking]) -> tuple[float, list[str]]:
    taus = ", ".join(f"{found.tau:.2f} after {epochs:.4g}" for epochs, found in sorted(lengths.items()))
    summary = f"Length: tau of short and full distillation is {taus} epochs"
    sure = {epochs: found for epochs, found in lengths.items() if found.interval is not None and found.interval[0] > 0}
    if not sure:
        longest = max(lengths)
        return longest, [
            f"{summary}; none is significantly above 0 ({lengths[longest].count} networks), so the longest is advised: "
            "calibrate with more networks, or longer."
        ]
    best = max(sure, key=lambda epochs: (_tau(sure[epochs]), -epochs))
    chosen = min(epochs for epochs, found in sure.items() if epochs == best or _as_good(found, sure[best]))
    how = "the best" if chosen == best else f"within one standard error of the best, {best:.4g}"
    low, high = sure[chosen].interval or (0.0, 0.0)
    return chosen, [
        f"{summary}; {chosen:.4g} is {how} ({sure[chosen].count} networks, 95 % interval {low:.2f} to {high:.2f})."
    ]


def _as_good(found: Ranking, best: Ranking) -> bool:
    return _tau(found) >= _tau(best) - float(np.nanstd(best.draws - found.draws))


def _tau(found: Ranking) -> float:
    return -1.0 if found.tau is None else found.tau


def _rungs(
    study: Study, kind: str, costs: Sequence[Mapping[str, float]], names: Sequence[str]
) -> tuple[list[float], float | None, list[str]]:
    early = [epochs for epochs in study.epochs(kind) if epochs < study.length(kind)]
    noise = study.noise() or 0.0
    tried = [
        found for margin in MARGINS if (found := replay_stopping(study, kind, early, margin, costs, names)) is not None
    ]
    if not tried:
        return early, None, []
    harmless = [entry for entry in tried if entry.found.loss <= noise]
    chosen = harmless[0] if harmless else min(tried, key=lambda entry: (entry.found.loss, entry.margin))
    separately = {
        epochs: found
        for epochs in early
        if (found := replay_stopping(study, kind, [epochs], chosen.margin, costs, names)) is not None
    }
    kept = [epochs for epochs, entry in separately.items() if entry.found.stopped]
    judged = chosen.found
    reasons = [
        f"Margin: at {chosen.margin:g}, if all others had reported before, {judged.stopped} of {judged.count} networks "
        f"would have been stopped, among them {judged.front_stopped} of the {judged.front} on the front, losing at "
        f"most {100 * judged.loss:.2f} points; the standard deviation of full quality between seeds is "
        f"{100 * noise:.2f} points."
    ]
    dropped = [epochs for epochs in early if epochs not in kept]
    if dropped:
        after = " and ".join(f"{epochs:.4g}" for epochs in dropped)
        reasons.append(f"Rungs: after {after} epochs that margin stops nothing, so no rung is advised there.")
    return kept, chosen.margin, reasons


def _constant(study: Study, epochs: float) -> Score | None:
    if CONSTANT not in study.kinds() or epochs not in study.epochs(CONSTANT):
        return None
    return read_out(study, CONSTANT, epochs)


def _slope(
    study: Study, kind: str, costs: Sequence[Mapping[str, float]], name: str, reasons: list[str]
) -> dict[str, Any]:
    """Return the advised slope for choosing finalists, if score and cost together predict quality better."""
    full_quality, scores = study.full_quality(), study.column(kind, study.length(kind))
    known = np.flatnonzero(np.isfinite(full_quality) & np.isfinite(scores))
    try:
        found = cost_slope(scores[known], [costs[int(index)][name] for index in known], full_quality[known])
    except ValueError:
        return {}
    if found is None:
        reasons.append("Finalists: the short score does not rise with full quality, so there is no slope.")
        return {}
    spread = "unknown"
    if found.interval is not None:
        spread = f"{100 * found.interval[0]:.2f} to {100 * found.interval[1]:.2f}"
    verdict = "is advised"
    if not found.helps:
        verdict = "is not advised, since it does not predict full quality better"
    elif not found.sure:
        verdict = "is not advised: its interval is too wide; calibrate with more networks"
    reasons.append(
        f"Finalists: per doubling of {name}, the slope is {100 * found.slope:.2f} points of short score (95 % interval "
        f"{spread}; {found.missing:.0%} of bootstrap draws have no slope); the leave-one-out error of full quality is "
        f"{100 * found.error_with:.2f} points with the cost and {100 * found.error_without:.2f} without. It {verdict}."
    )
    return {"final": {"slope": round(found.slope, 4)}} if found.helps and found.sure else {}


def _caveats(study: Study, kind: str, score: Score) -> list[str]:
    """Return sentences on limits of the score that no key of a search file can express."""
    caveats = []
    plain = kind.replace("kd@", "ce@")
    if plain in study.kinds():
        labels = difference(study, score, read_out(study, plain))
        caveats.append(f"The teacher in the score: tau {difference_text(labels)} compared with labels only.")
    flops = Score("FLOPs", {None: np.log(study.flops)})
    baseline = rank(study, flops, among=common(study, [score]))
    caveats.append(
        f"FLOPs only rank with tau {figure(None if baseline is None else baseline.tau)}; the short score compared with "
        f"them: {difference_text(difference(study, score, flops))}."
    )
    return caveats


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="#   ")
