"""How well a number tells two kinds of things apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Probability that a right one is above a wrong one.

    Ties count half; NaN without both.
    """
    if not len(right) or not len(wrong):
        return float("nan")
    values = np.concatenate([right, wrong])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Mean rank of each group of ties.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = len(right), len(wrong)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
