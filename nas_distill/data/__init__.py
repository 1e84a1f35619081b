"""Datasets: splits of samples, and seeded views (augmentation) of them."""

from nas_distill.data.dataset import Dataset, SplitName
from nas_distill.data.loaders import load_dataset
from nas_distill.data.splits import Split
from nas_distill.data.views import Views

__all__ = ["Dataset", "Split", "SplitName", "Views", "load_dataset"]
