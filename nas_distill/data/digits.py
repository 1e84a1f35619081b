"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn brings (UCI Optical Recognition)."""

from __future__ import annotations

import numpy as np

from nas_distill.data.dataset import Dataset
from nas_distill.data.views import Views


def load_digits(views: Views | None = None, seed: int = 0) -> Dataset:
    """Load digits: images (1, 8, 8) uint8 (grey levels 0..16, spread over 0..255), 10 classes.

    20 % are for testing and 20 % of the rest for validation, stratified; ``views`` shift by one pixel unless given.
    """
    from sklearn.datasets import load_digits as load

    bundle = load()
    x = np.round(bundle.images[:, None] * (255 / 16)).astype(np.uint8)
    return Dataset.from_tensors(
        x,
        bundle.target,
        val=0.2,
        test=0.2,
        num_classes=10,
        mean=(0.305,),
        std=(0.376,),
        views=views or Views(count=4, pad=1),
        name="digits",
        seed=seed,
    )
