"""Data: splits of a task and seeded views of its samples."""

from nas_distill.data.dataset import Dataset, SplitName
from nas_distill.data.loaders import load_dataset
from nas_distill.data.splits import Split
from nas_distill.data.views import Views

__all__ = ["Dataset", "Split", "SplitName", "Views", "load_dataset"]
