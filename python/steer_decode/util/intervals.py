"""95 % intervals of shares.

They have a width also where all are right or none is. Wilson's score interval (E. B. Wilson 1927;
recommended for small numbers by Brown, Cai and DasGupta, Statistical Science 16, 2001), and for a
total of groups of fixed size the square-and-add rule of Zou and Donner (Statistics in Medicine 27,
2008) on the groups' Wilson intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z = 1.959964  # two-sided 95 % of a normal deviate

Array = NDArray[np.float64]


def wilson(share: ArrayLike, n: ArrayLike) -> tuple[Array, Array]:
    """Bounds of Wilson's interval for ``share`` of ``n``.

    Any shapes that broadcast; in [0, 1].
    """
    p, n = np.asarray(share, dtype=np.float64), np.asarray(n, dtype=np.float64)
    square = Z * Z / n
    middle = p + square / 2
    reach = np.sqrt(np.maximum(0.0, p * (1 - p) * square + square * square / 4))
    low, high = (middle - reach) / (1 + square), (middle + reach) / (1 + square)
    return np.clip(low, 0.0, p), np.clip(high, p, 1.0)


def unseen(n: float) -> float:
    """The largest share of what none of ``n`` showed.

    By Wilson's interval: z^2 / (n + z^2).
    """
    return float(Z * Z / (n + Z * Z))


def shares(above: Array, below: Array, groups: Sequence[str]) -> tuple[Array, Array, Array]:
    """Shares with the bounds of their intervals, [columns] each.

    The shares are ``above.sum(0) / below.sum(0)``. Within a group a share varies as its items do,
    however many observations each item sums up: it has the interval of p (1 - p) / variance
    independent ones, and of as many as there are items where the items do not vary. The sizes of
    the groups are taken as fixed.

    Args:
        above: [items, columns], what counts in each item.
        below: likewise, of how many; 0 leaves an item out.
        groups: the group of each item.

    Returns:
        (value, low, high); NaN where a column counts nothing.
    """
    names = np.asarray(groups)
    total = below.sum(0)
    some = total > 0
    value = np.divide(above.sum(0), total, out=np.full(total.shape, np.nan), where=some)
    squares = np.zeros((2, *total.shape))
    for name in dict.fromkeys(groups):
        here = names == name
        a, b = above[here], below[here]
        size = b.sum(0)
        p = np.clip(np.divide(a.sum(0), size, out=np.zeros_like(size), where=size > 0), 0, 1)
        variance = ((a - p * b) ** 2).sum(0) / np.maximum(size, 1e-100) ** 2
        items = np.maximum((b > 0).sum(0), 1).astype(np.float64)
        varies = (variance > 1e-15) & (p > 0) & (p < 1)
        n = np.divide(p * (1 - p), variance, out=items.copy(), where=varies)
        low, high = wilson(p, np.maximum(n, 1.0))
        weight = np.divide(size, total, out=np.zeros_like(size), where=some)
        squares += (weight * (p - low)) ** 2, (weight * (high - p)) ** 2
    down, up = np.sqrt(squares)
    return value, np.clip(value - down, 0, 1), np.clip(value + up, 0, 1)
