"""Two Gaussians in one dimension, fitted by EM.

Unconfident steps are below, confident ones above. STEER (arXiv 2511.06190, section 3) fits them to
the step confidences Phi of a cohort and routes by the posterior Pr(c | Phi) = pi_c N(Phi; mu_c,
var_c) / sum over both components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.gate_rule import Region

MIN_SCORES = 10
MAX_WEIGHT = 0.99
CLEAR = 2.0  # least separation of components that can be told apart
_QUANTILES = (0.2, 0.4, 0.6, 0.8)  # where starts beside that of k-means cut the scores in two
_TRIAL = 20  # iterations before the less likely half of the starts is given up
_CHECK = 10  # iterations between two looks at the likelihood
_MOST = 300  # iterations of the last one left
_TOLERANCE = 1e-6  # of the mean log-likelihood, over _CHECK iterations
_FAR = 1e4  # deviations from the means within which a posterior is told
_FLOOR = 1e-6  # least variance of a component, as a share of that of all scores

Array = NDArray[np.float64]
_Component = tuple[float, float, float]  # weight, mean, variance


@dataclass(frozen=True)
class TwoGaussians:
    """A mixture of two Gaussians; mean_u < mean_c.

    The weight of the confident component, and mean and variance of both.
    """

    weight_c: float
    mean_u: float
    var_u: float
    mean_c: float
    var_c: float

    @property
    def separation(self) -> float:
        """Distance of the means in deviations: Ashman's D.

        |mean_c - mean_u| / sqrt((var_u + var_c) / 2), of Ashman, Bird and Zepf
        (1994); two humps are told apart from 2 on.
        """
        return (self.mean_c - self.mean_u) / math.sqrt((self.var_u + self.var_c) / 2)

    def posterior(self, score: float, monotone: bool = False) -> float:
        """Probability that a score belongs to the confident component.

        With ``monotone`` it is taken between the two means only: scores beyond count as the nearer
        mean. Otherwise it falls again where the wider component has the fatter tail.
        """
        if monotone:
            score = min(max(score, self.mean_u), self.mean_c)
        log_u = math.log1p(-self.weight_c) + _log_density(score, self.mean_u, self.var_u)
        log_c = math.log(self.weight_c) + _log_density(score, self.mean_c, self.var_c)
        return 1 / (1 + math.exp(min(log_u - log_c, 700.0)))

    def confident(self, gamma: float) -> Region:
        """The scores whose posterior is ``gamma`` or more.

        The log-odds are a polynomial of degree two, which turns once at most: a half line, an
        interval, or all but an interval.
        """
        turns = []
        if self.var_u != self.var_c:
            slope = self.mean_c / self.var_c - self.mean_u / self.var_u
            turns.append(slope / (1 / self.var_c - 1 / self.var_u))
        # Further out the two densities are told apart by rounding alone.
        far = _FAR * math.sqrt(max(self.var_u, self.var_c))
        within = self.mean_u - far, self.mean_c + far
        return Region.where(lambda score: self.posterior(score) >= gamma, turns, within)


def fit(scores: Sequence[float]) -> TwoGaussians | None:
    """The maximum-likelihood mixture of ``scores``, by EM from several starts.

    The starts are the split of k-means and cuts at four quantiles; nothing is left to chance. After
    every trial the less likely half of them is given up, and the last one goes on until the
    likelihood stands still.

    Returns:
        The mixture, or None where none can be told: fewer than ten scores, all of them equal, or a
        component that takes more than 99 % of the weight.

    Raises:
        ValueError: a score is not finite.
    """
    x = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("scores must be finite")
    if x.size < MIN_SCORES or np.ptp(x) == 0:
        return None
    centre, scale = float(x.mean()), float(x.std())
    z = (x - centre) / scale
    em = _EM(z)
    running = _starts(z)
    while True:
        tried = [(*em.run(upper, _TRIAL), upper) for upper in running]
        # A component that takes nearly everything is no answer, however likely.
        tried.sort(key=lambda t: (_largest(t[1]) <= MAX_WEIGHT, t[0]), reverse=True)
        if len(tried) == 1:
            break
        running = [upper for _, _, upper in tried[: len(tried) // 2]]
    last, _, upper = tried[0]
    for _ in range(_MOST // _CHECK):
        likelihood, components = em.run(upper, _CHECK)
        if likelihood - last < _TOLERANCE * x.size:
            break
        last = likelihood
    if not math.isfinite(likelihood) or _largest(components) > MAX_WEIGHT:
        return None
    (_, mean_u, var_u), (weight_c, mean_c, var_c) = sorted(components, key=lambda c: c[1])
    square = scale * scale
    return TwoGaussians(
        weight_c, centre + scale * mean_u, square * var_u, centre + scale * mean_c, square * var_c
    )


def _largest(components: Sequence[_Component]) -> float:
    return max(weight for weight, _, _ in components)


def _log_density(x: float, mean: float, var: float) -> float:
    return -0.5 * (math.log(2 * math.pi * var) + (x - mean) ** 2 / var)


def _starts(z: Array) -> list[Array]:
    """First responsibilities of the upper component, 0 or 1, from standardised scores."""
    cuts = [_two_means(z), *map(float, np.quantile(z, _QUANTILES))]
    splits = [z > cut for cut in dict.fromkeys(cuts)]
    return [split.astype(np.float64) for split in splits if split.any() and not split.all()]


def _two_means(z: Array) -> float:
    """The cut of k-means with two clusters: halfway between their means, by Lloyd's algorithm.

    It begins at the mean of all, 0, on either side of which there are scores, as after every step.
    """
    cut = 0.0
    for _ in range(50):
        upper = z > cut
        moved = float(z[upper].mean() + z[~upper].mean()) / 2
        if moved == cut:
            break
        cut = moved
    return cut


class _EM:
    """EM for two Gaussians over standardised scores z [N].

    Both steps need the scores only as sums and products with the basis 1, z, z^2: weights, means
    and variances are moments, and the log-odds of the components are a polynomial of degree two.
    """

    def __init__(self, z: Array) -> None:
        self._basis = np.stack([np.ones_like(z), z, z * z])
        self._total: list[float] = self._basis.sum(axis=1).tolist()
        self._against = np.empty(3)  # coefficients of the log-odds of the lower component

    def run(self, upper: Array, steps: int) -> tuple[float, tuple[_Component, _Component]]:
        """Run ``steps`` iterations from ``upper`` [N], changed in place.

        ``upper`` are responsibilities.

        Returns:
            The log-likelihood, and the components behind it.
        """
        against = self._against
        with np.errstate(over="ignore"):  # exp(inf) is as good as any number that large
            for _ in range(steps):
                moments = (self._basis @ upper).tolist()
                rest = [a - b for a, b in zip(self._total, moments, strict=True)]
                components = self._component(rest), self._component(moments)
                low, high = map(_log_joint, components)
                against[:] = [a - b for a, b in zip(low, high, strict=True)]
                np.exp(np.dot(against, self._basis, out=upper), out=upper)
                upper += 1
                np.reciprocal(upper, out=upper)
        # log(a + b) = log a + log(1 + b / a), summed over the scores.
        first = sum(c * total for c, total in zip(low, self._total, strict=True))
        odds = -against @ self._basis
        return first + float(np.logaddexp(0, odds).sum()), components

    def _component(self, moments: Sequence[float]) -> _Component:
        """From the sums of 1, z and z^2 under a component's responsibilities."""
        mass = max(moments[0], 1e-9)
        mean = moments[1] / mass
        return mass / self._total[0], mean, max(moments[2] / mass - mean * mean, _FLOOR)


def _log_joint(component: _Component) -> tuple[float, float, float]:
    """log(weight N(z; mean, var)) as coefficients of 1, z and z^2."""
    weight, mean, var = component
    return (
        math.log(weight) - 0.5 * math.log(2 * math.pi * var) - 0.5 * mean * mean / var,
        mean / var,
        -0.5 / var,
    )
