"""What users call: ``search``, ``open_run``, and the run, trials and students that come of them."""

from nas_distill.api.run import Run, Student, Trial
from nas_distill.api.start import open_run, search

__all__ = ["Run", "Student", "Trial", "open_run", "search"]
