"""Reports of a run: tables, plots, cards and the live view. They change no state of the run."""
