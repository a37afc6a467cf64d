"""Two figures of routers: area under a curve, and AUROC.

The curve is that of accuracy against cost. Whoever has a budget may mix two settings by sending a
part of the questions to either, and need not spend all of it. So the curve is the least concave,
non-decreasing line above all settings and both models alone, between the costs of these two.
Settings that cost more than the large model alone do not count; one that costs less than the small
model alone counts at the cost of that. The area under the curve, divided by its width, is the mean
accuracy over all budgets between both models alone. Their random mix has the area of a straight
line, which is the least of any router.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def area(cost: Array, accuracy: Array) -> Array:
    """Mean height of each row's curve, [rows].

    From its first point to its last.

    Args:
        cost: [rows, points]; the first is that of the small model alone, the last of the large one.
        accuracy: likewise.

    Returns:
        NaN where the large model does not cost more than the small one.
    """
    total = np.zeros(len(cost))
    for left, height, right, higher in _segments(cost, accuracy):
        total += (right - left) * (height + higher) / 2
    width = cost[:, -1] - cost[:, 0]
    return np.divide(total, width, out=np.full(len(cost), np.nan), where=width > 0)


def corners(cost: Array, accuracy: Array) -> list[tuple[float, float]]:
    """The corners of one curve.

    They go from the small model's cost to the large one's.
    """
    found: list[tuple[float, float]] = []
    for left, height, right, higher in _segments(cost[None], accuracy[None]):
        if not found:
            found.append((float(left[0]), float(height[0])))
        if right[0] > left[0]:
            found.append((float(right[0]), float(higher[0])))
    return found


def _segments(cost: Array, accuracy: Array) -> list[tuple[Array, Array, Array, Array]]:
    """The upper concave hulls, by gift wrapping (R. A. Jarvis 1973).

    Each piece is (left, height, right, height), [rows] each, from the left. A piece goes to the
    point on the right to which the slope is greatest; where none is higher, it is level to the end.
    """
    start, end = cost[:, 0], cost[:, -1]
    # What costs no more than the small model alone counts at its cost.
    here_y = np.where(cost <= start[:, None], accuracy, -np.inf).max(1)
    here_x = start
    segments = []
    for _ in range(cost.shape[1]):
        usable = (cost > here_x[:, None]) & (cost <= end[:, None]) & (accuracy > here_y[:, None])
        run = np.where(usable, cost - here_x[:, None], 1.0)
        slope = np.where(usable, (accuracy - here_y[:, None]) / run, -1.0)
        best = slope.argmax(1)
        rows = np.arange(len(cost))
        climbs = usable[rows, best]
        right = np.where(climbs, cost[rows, best], np.maximum(end, here_x))
        higher = np.where(climbs, accuracy[rows, best], here_y)
        segments.append((here_x, here_y, right, higher))
        here_x, here_y = right, higher
    return segments


def weighted_auroc(values: Array, right: NDArray[np.bool_], weights: Array) -> Array:
    """:func:`auroc` of weighted items, for several weightings.

    Args:
        values: [items]; higher is to mean right.
        right: [items].
        weights: [rows, items], how often each counts.

    Returns:
        [rows]; NaN where a weighting has no right item, or no wrong one.
    """
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # of each group of ties
    above = np.add.reduceat(np.where(right, weights, 0.0)[:, order], first, axis=1)
    below = np.add.reduceat(np.where(right, 0.0, weights)[:, order], first, axis=1)
    beaten = np.cumsum(below, axis=1) - below / 2
    pairs = above.sum(1) * below.sum(1)
    won = (above * beaten).sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


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
