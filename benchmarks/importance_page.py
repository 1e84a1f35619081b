"""The page of benchmarks/importance.py, from its results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from common import spread, table
from importance_train import CHANCE, DEEP, DEEP_EPOCHS, ORDERS, Study, Way
from inherit_arms.networks import CUTTING

from nas_distill.cost.budget import format_cost
from nas_distill.cost.count import count
from nas_distill.cut.importance import CRITERIA


def page(study: Study) -> list[str]:
    """Return the page's parts."""
    return [
        _about(study),
        "## Which channels stay",
        _widths_text(study),
        _table(study, study.widths, lambda way: f"{study.flops(way):.1%}", "FLOPs"),
        _said(study, study.widths, list(CRITERIA)),
        "## What the reconstruction is worth",
        _PLAIN,
        _table(study, study.plain, lambda way: f"{study.flops(way):.1%}", "FLOPs"),
        _said(study, study.plain, list(CRITERIA)),
        _reconstruction(study),
        "## Which blocks go",
        _depths_text(study),
        _table(study, study.depths, lambda way: f"{way.much:g} of {_droppable(study)}", "blocks gone"),
        _said(study, study.depths, list(ORDERS)),
    ]


_PLAIN = """The same without it: kept weights stay as they were in the teacher. Under the table, what the reconstruction
adds to each row: points, mean over seeds (paired) ± two standard errors of it."""


def _reconstruction(study: Study) -> str:
    rows = [
        [
            f"{study.flops(way):.1%}",
            f"`{way.how}`",
            _gain(_before(study, way), _before(study, plain)),
            _gain(_after(study, way), _after(study, plain)),
        ]
        for way, plain in zip(study.widths, study.plain, strict=True)
    ]
    return table(["FLOPs", "by", "before, gain", "after, gain"], rows)


def _about(study: Study) -> str:
    data = study.data
    images = round(study.epochs * len(data.train))
    return f"""{data.name}: {len(data.train):,} training and {len(data.val):,} validation images. All figures are
validation accuracy, since a default is to be chosen by them: *before*, without any training, after batch norm was
re-estimated from {CUTTING.samples:,} training images; *after*, when {images:,} training images were seen in KD by
the teacher that was cut. Mean (lowest to highest) over {study.seeds} seeds, which fix the order of samples and views
alike for every row, and what is drawn of a criterion. *Against chance* is the difference to the random choice, in
points, mean over seeds (paired) ± two standard errors of it."""


def _widths_text(study: Study) -> str:
    seconds = {
        how: fmean(
            study.before[way.key(place)]["seconds"] for way in study.widths if way.how == how for place in way.seeds
        )
        for how in CRITERIA
    }
    told = ", ".join(f"`{how}` {took:.1f}" for how, took in seconds.items())
    return f"""The shipped teacher ({study.validation(study.shipped.module):.2%}), all its widths narrowed alike (in
multiples of 8); what stays makes up for what goes (`reconstruct`). Seconds to order the channels, cut, reconstruct,
re-estimate and evaluate: {told}."""


def _depths_text(study: Study) -> str:
    module = study.deep.module
    flops = format_cost("flops", count(module, study.data.input_shape, ["flops"])["flops"])
    orders = []
    for how in ORDERS:
        if how != CHANCE:
            seconds = study.before[f"order-{how}"]["seconds"]
            orders.append(f"`{how}`: {', '.join(map(str, study.order(how, 0)))} ({seconds:.1f} s to find)")
    return f"""A deeper teacher ({flops} FLOPs, {study.validation(module):.2%} after {DEEP_EPOCHS:g} epochs on labels;
`{DEEP}` in the work folder), whose blocks go whole; widths stay. The blocks' indices in the order in which they go:
{"; ".join(orders)}."""


def _droppable(study: Study) -> int:
    return len(study.order(ORDERS[0], 0))


def _table(study: Study, ways: Sequence[Way], much: Callable[[Way], str], header: str) -> str:
    rows = []
    for way in ways:
        chance = next(other for other in ways if other.how == CHANCE and other.much == way.much)
        before, after = _before(study, way), _after(study, way)
        rows.append(
            [
                much(way),
                f"`{way.how}`",
                spread(before),
                "" if way.how == CHANCE else _gain(before, _before(study, chance)),
                spread(after),
                "" if way.how == CHANCE else _gain(after, _after(study, chance)),
            ]
        )
    return table([header, "by", "before", "against chance", "after", "against chance"], rows)


def _before(study: Study, way: Way) -> list[float]:
    return [study.before[way.key(place)]["quality"] for place in way.seeds]


def _after(study: Study, way: Way) -> list[float]:
    qualities = [study.book[way.key(place)]["quality"] for place in way.seeds]
    return [math.nan if quality is None else quality for quality in qualities]


def _gain(values: Sequence[float], chance: Sequence[float]) -> str:
    differences = [own - other for own, other in zip(values, chance, strict=True)]
    return f"{100 * fmean(differences):+.2f} ± {200 * stdev(differences) / math.sqrt(len(differences)):.2f}"


def _said(study: Study, ways: Sequence[Way], names: Sequence[str]) -> str:
    """Say which is best on average over all amounts, before and after."""
    told = []
    for word, figures in (("Before training", _before), ("After", _after)):
        means = {how: fmean(fmean(figures(study, way)) for way in ways if way.how == how) for how in names}
        ranked = sorted(names, key=lambda how: -means[how])
        told.append(f"{word}, on average of the rows: {', '.join(f'`{how}` {means[how]:.2%}' for how in ranked)}.")
    return " ".join(told)
