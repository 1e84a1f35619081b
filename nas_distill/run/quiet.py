"""Optuna without its notes: lines about new studies, and warnings that a feature we rely on is experimental."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

with warnings.catch_warnings():
    # Optuna imports a progress bar that warns in every notebook that lacks the widgets to draw it.
    warnings.filterwarnings("ignore", message="IProgress not found")
    import optuna


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Mute Optuna's information lines and experimental notes inside the block; real warnings still show."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
