"""Intervals: a bootstrap over problems, and Wilson's.

Wilson's serves where the bootstrap cannot see. A resample draws as many problems of each domain as
there are, with replacement. All routers see the same draw, so that their differences are paired,
and the seeds of a problem stay together. Shares of right answers have Wilson's interval. Where
resamples do not differ at all, since no problem tells two routers apart, say, a difference may
still be as large as what no problem showed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...util.intervals import shares, unseen, wilson
from ...util.numbers import auroc as auroc

RESAMPLES = 2000
_CHUNK = 200

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """A figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Sums over resampled problems.

    Everything that is summed sees the same resamples.

    Args:
        domains: the domain of each problem.
        resamples: how many.
        seed: of the draws.
    """

    def __init__(self, domains: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        groups = np.asarray(domains)
        counts = np.empty((resamples, len(groups)), dtype=np.int32)
        for domain in dict.fromkeys(domains):
            here = np.flatnonzero(groups == domain)
            counts[:, here] = rng.multinomial(
                len(here), np.full(len(here), 1 / len(here)), size=resamples
            )
        self._counts = counts
        self._domains = list(domains)

    def sums(self, values: Array) -> Array:
        """Sums [1 + resamples, ...] from [problems, ...].

        The first row is that of the problems themselves.
        """
        flat = values.reshape(len(values), -1)
        parts = [flat.sum(0, keepdims=True)]
        for start in range(0, len(self._counts), _CHUNK):
            parts.append(self._counts[start : start + _CHUNK].astype(np.float64) @ flat)
        return np.concatenate(parts).reshape(-1, *values.shape[1:])

    def ratio(self, numerator: Array, denominator: Array) -> Array:
        """Sum over sum, [1 + resamples, ...].

        It is NaN where a resample has nothing below the line.
        """
        above, below = np.broadcast_arrays(self.sums(numerator), self.sums(denominator))
        return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)

    def shares(self, above: Array, below: Array) -> list[Interval]:
        """Wilson's intervals of ``above`` over ``below``, [problems, columns] both."""
        found = shares(above, below, self._domains)
        return [Interval(*map(float, each)) for each in zip(*found, strict=True)]


def interval(samples: Array) -> Interval:
    """The percentile interval of one figure, from [1 + resamples].

    NaNs are left out.
    """
    rest = samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(samples[0]) or not len(rest):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(rest, [2.5, 97.5])
    return Interval(float(samples[0]), float(low), float(high))


def intervals(samples: Array) -> list[Interval]:
    """Of each column of [1 + resamples, columns]."""
    return [interval(samples[:, i]) for i in range(samples.shape[1])]


def difference(samples: Array, problems: int) -> Interval:
    """The interval of a difference of shares.

    Where no resample differs, it is what so many problems leave open.
    """
    found = interval(samples)
    if _flat(found):
        reach = unseen(problems)
        return Interval(found.value, max(-1.0, found.value - reach), min(1.0, found.value + reach))
    return found


def mean_share(samples: Array, problems: int) -> Interval:
    """The interval of a mean of shares.

    Where no resample differs, it is Wilson's of as many problems.
    """
    found = interval(samples)
    if _flat(found):
        low, high = wilson(min(max(found.value, 0.0), 1.0), problems)
        return Interval(found.value, float(low), float(high))
    return found


def _flat(found: Interval) -> bool:
    return found.high - found.low <= 1e-12
