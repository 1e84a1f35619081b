"""The page of benchmarks/importance.py, from its results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from common import spread, table
from importance_train import CHANCE, DEEP, DEEP_EPOCHS, DRAWS, ORDERS, REFERENCE, Study, Way
from inherit_arms.networks import CUTTING

from nas_distill.costs import format_cost
from nas_distill.costs.counting import count
from nas_distill.evaluate.intervals import crossed_interval
from nas_distill.pruning.importance import CRITERIA


def page(study: Study) -> list[str]:
    """Return the page's parts."""
    return [
        *_unfinished(study),
        _about(study),
        "## Which channels stay",
        _widths_text(study),
        _table(study, study.widths, lambda way: f"{study.flops(way):.1%}", "FLOPs"),
        _said(study, study.widths, list(CRITERIA)),
        *_orders(study),
        "## Gain from the reconstruction",
        _PLAIN,
        _table(study, study.plain, lambda way: f"{study.flops(way):.1%}", "FLOPs"),
        _said(study, study.plain, list(CRITERIA)),
        _reconstruction(study),
        *_blocks(study),
    ]


def _unfinished(study: Study) -> list[str]:
    keys = [way.key(place) for way in study.ways for place in way.seeds]
    done = sum(key in study.after for key in keys)
    if done == len(keys):
        return []
    return [f"**Not finished**: {done} of {len(keys)} distillations are done; `{MISSING}` is what is missing."]


def _blocks(study: Study) -> list[str]:
    if not study.depths:
        return []
    rows = _table(study, study.depths, lambda way: f"{way.much:g} of {_droppable(study)}", "blocks gone")
    return ["## Which blocks go", _depths_text(study), rows, _said(study, study.depths, list(ORDERS))]


MISSING = "-"
Right = np.ndarray | None

_PLAIN = """The same without it: kept weights stay as they were in the teacher. Under the table, what the reconstruction
adds to each row: points, with its 95 % interval."""


def raw(study: Study) -> str:
    """Return one line per network as CSV; ``wrong``: a hexadecimal number whose bit n is set if image n is wrong."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "by", "much", "seed", "flops_share", "before", "after", "wrong_before", "wrong_after"])
    for way in study.ways:
        for place in way.seeds:
            key = way.key(place)
            wrong = [book[key]["wrong"] if key in book else None for book in (study.before, study.after)]
            shown = ["" if one is None else f"{1 - len(one) / len(study.data.val):.4f}" for one in wrong]
            bits = ["" if one is None else f"{sum(1 << image for image in one):x}" for one in wrong]
            writer.writerow([way.part, way.how, way.much, place, f"{study.flops(way):.5f}", *shown, *bits])
    return text.getvalue()


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
alike for every row, and what is drawn of a criterion. *Against random* is the difference to the random choice, in
points, with its 95 % interval: of seeds and of validation images, both paired and both taken as drawn at random, with
Student's quantile for so few seeds. Not in it are the teachers (one each) and the draw of training images that
criteria, reconstruction and batch norm look at, which is one for all rows. Each row is
[here](importance.csv), with the images that it gets wrong."""


def _orders(study: Study) -> list[str]:
    if "orders" not in study.before:
        return []
    found = study.before["orders"]
    rows = [[f"`{name}`", f"{fmean(values):.3f}", f"{min(values):.3f}"] for name, values in found.items()]
    text = f"""Spearman's rank correlation of `taylor` on {CUTTING.samples:,} samples with `taylor` on
{REFERENCE:,} samples and other directions, over {DRAWS} draws of directions. The {CUTTING.samples:,} are among the
{REFERENCE:,}, so this says how much directions and number matter, not which samples are drawn."""
    return ["## How much an order depends on the draw", text, table(["group", "mean", "lowest"], rows)]


def _widths_text(study: Study) -> str:
    return f"""The shipped teacher ({study.validation(study.shipped.module):.2%}), all its widths narrowed alike (in
multiples of 8); with reconstruction (`reconstruct`)."""


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
                _seeds(before),
                "" if way.how == CHANCE else _gain(before, _before(study, chance)),
                _seeds(after),
                "" if way.how == CHANCE else _gain(after, _after(study, chance)),
            ]
        )
    return table([header, "by", "before", "against random", "after", "against random"], rows)


def _before(study: Study, way: Way) -> Right:
    return study.right(way, trained=False)


def _after(study: Study, way: Way) -> Right:
    return study.right(way, trained=True)


def _seeds(right: Right) -> str:
    return MISSING if right is None else spread([float(value) for value in right.mean(axis=1)])


def _gain(right: Right, chance: Right) -> str:
    if right is None or chance is None:
        return MISSING
    mean, halfwidth = crossed_interval(right - chance)
    return f"{100 * mean:+.2f} ± {100 * halfwidth:.2f}"


def _said(study: Study, ways: Sequence[Way], names: Sequence[str]) -> str:
    """Return which is best averaged over all amounts, before and after, and by how much."""
    told = []
    for word, figures in (("Before training", _before), ("After", _after)):
        rows = {how: [figures(study, way) for way in ways if way.how == how] for how in names}
        finished = {how: [row for row in found if row is not None] for how, found in rows.items()}
        if any(len(finished[how]) < len(found) for how, found in rows.items()):
            continue
        means = {how: np.mean(found, axis=0) for how, found in finished.items()}
        ranked = sorted(names, key=lambda how: -float(means[how].mean()))
        shown = ", ".join(f"`{how}` {means[how].mean():.2%}" for how in ranked)
        best = ", ".join(f"{_gain(means[ranked[0]], means[how])} against `{how}`" for how in ranked[1:])
        told.append(f"{word}, averaged over the rows: {shown}; `{ranked[0]}` {best}.")
    return " ".join(told)
