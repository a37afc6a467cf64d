"""Two Gaussians in one dimension, fitted by EM: unconfident steps below, confident ones above.

STEER (arXiv 2511.06190, section 3) fits them to the step confidences Phi of a cohort and routes by
the posterior Pr(c | Phi) = pi_c N(Phi; mu_c, var_c) / sum over both components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SCORES = 10
MAX_WEIGHT = 0.99
_RESTARTS = 4
_ITERATIONS = 200
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class TwoGaussians:
    """Weight of the confident component, and mean and variance of both; mean_u < mean_c."""

    weight_c: float
    mean_u: float
    var_u: float
    mean_c: float
    var_c: float

    def posterior(self, score: float, monotone: bool = False) -> float:
        """Probability that a step with this score belongs to the confident component.

        With ``monotone`` it is taken between the two means only: scores beyond count as the nearer
        mean. Otherwise it falls again where the wider component has the fatter tail.
        """
        if monotone:
            score = min(max(score, self.mean_u), self.mean_c)
        log_u = math.log1p(-self.weight_c) + _log_density(score, self.mean_u, self.var_u)
        log_c = math.log(self.weight_c) + _log_density(score, self.mean_c, self.var_c)
        return 1 / (1 + math.exp(min(log_u - log_c, 700.0)))


def fit(scores: Sequence[float]) -> TwoGaussians | None:
    """The maximum-likelihood mixture of ``scores``, by EM from k-means starts.

    Returns:
        The best of a few restarts by likelihood, or None where no mixture can be told: fewer than
        ten scores, all of them equal, or a component that takes more than 99 % of the weight.

    Raises:
        ValueError: a score is not finite.
    """
    x = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("scores must be finite")
    if x.size < MIN_SCORES or np.ptp(x) == 0:
        return None
    # The starts differ in where they first cut the scores in two; nothing is left to chance.
    cuts = np.quantile(x, np.linspace(0.2, 0.8, _RESTARTS))
    fits = [_em(x, _two_means(x, float(cut))) for cut in cuts]
    log_likelihood, weight_c, mean, var = max(fits, key=lambda f: f[0])
    low, high = (0, 1) if mean[0] <= mean[1] else (1, 0)
    if high == 0:
        weight_c = 1 - weight_c
    if not math.isfinite(log_likelihood) or max(weight_c, 1 - weight_c) > MAX_WEIGHT:
        return None
    return TwoGaussians(weight_c, *map(float, (mean[low], var[low], mean[high], var[high])))


def _log_density(x: float, mean: float, var: float) -> float:
    return -0.5 * (math.log(2 * math.pi * var) + (x - mean) ** 2 / var)


def _two_means(x: NDArray[np.float64], cut: float) -> NDArray[np.bool_]:
    """Lloyd's algorithm in one dimension from a first cut; the mask of the upper cluster."""
    upper = x > cut
    for _ in range(50):
        if upper.all() or not upper.any():
            return x > x.mean()
        cut = (x[upper].mean() + x[~upper].mean()) / 2
        moved = x > cut
        if (moved == upper).all():
            break
        upper = moved
    return upper


def _em(
    x: NDArray[np.float64], upper: NDArray[np.bool_]
) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64]]:
    """EM from a hard split: (log-likelihood, weight of component 1, means [2], variances [2])."""
    floor = max(1e-6 * float(x.var()), 1e-12)
    resp = upper.astype(np.float64)
    last = -math.inf
    for _ in range(_ITERATIONS):
        r = np.stack([1 - resp, resp])
        mass = r.sum(axis=1).clip(min=1e-9)
        mean = (r @ x) / mass
        var = ((r * (x - mean[:, None]) ** 2).sum(axis=1) / mass).clip(min=floor)
        weight = mass / x.size
        log_joint = (
            np.log(weight)[:, None]
            - 0.5 * np.log(2 * np.pi * var)[:, None]
            - 0.5 * (x - mean[:, None]) ** 2 / var[:, None]
        )
        log_total = np.logaddexp(log_joint[0], log_joint[1])
        resp = np.exp(log_joint[1] - log_total)
        likelihood = float(log_total.sum())
        if likelihood - last < _TOLERANCE * abs(likelihood):
            break
        last = likelihood
    return likelihood, float(weight[1]), mean, var
