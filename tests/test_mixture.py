"""EM against the mixtures that the scores were drawn from, and against its own likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steer_decode.mixture import TwoGaussians, fit


def draw(m: TwoGaussians, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    confident = rng.random(n) < m.weight_c
    mean = np.where(confident, m.mean_c, m.mean_u)
    return mean + rng.standard_normal(n) * np.sqrt(np.where(confident, m.var_c, m.var_u))


def log_likelihood(m: TwoGaussians, x: np.ndarray) -> float:
    def density(mean: float, var: float) -> np.ndarray:
        return np.exp(-((x - mean) ** 2) / (2 * var)) / math.sqrt(2 * math.pi * var)

    total = (1 - m.weight_c) * density(m.mean_u, m.var_u) + m.weight_c * density(m.mean_c, m.var_c)
    return float(np.log(total).sum())


def test_recovers_a_known_mixture() -> None:
    true = TwoGaussians(0.65, 20.0, 4.0, 27.0, 1.5)
    found = fit(draw(true, 20_000))
    assert found is not None
    assert found.weight_c == pytest.approx(true.weight_c, abs=0.02)
    assert found.mean_u == pytest.approx(true.mean_u, abs=0.15)
    assert found.mean_c == pytest.approx(true.mean_c, abs=0.1)
    assert found.var_u == pytest.approx(true.var_u, rel=0.1)
    assert found.var_c == pytest.approx(true.var_c, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(
    weight=st.floats(0.2, 0.8),
    mean=st.floats(-30, 30),
    sd_u=st.floats(0.5, 3),
    sd_c=st.floats(0.5, 3),
    gap=st.floats(3, 6),
)
def test_is_as_likely_as_the_truth(
    weight: float, mean: float, sd_u: float, sd_c: float, gap: float
) -> None:
    """No mixture that made a sample beats the maximum-likelihood fit to it.

    The components stand three deviations or more apart; closer ones EM reaches very slowly.
    """
    true = TwoGaussians(weight, mean, sd_u**2, mean + gap * max(sd_u, sd_c), sd_c**2)
    x = draw(true, 400)
    found = fit(x)
    assert found is not None
    assert found.mean_u <= found.mean_c
    assert log_likelihood(found, x) >= log_likelihood(true, x) - 0.1


def test_posterior_is_bayes_rule() -> None:
    m = TwoGaussians(0.3, 0.0, 1.0, 2.0, 4.0)
    u = 0.7 * math.exp(-0.5) / math.sqrt(2 * math.pi)
    c = 0.3 * math.exp(-1 / 8) / math.sqrt(2 * math.pi * 4)
    assert m.posterior(1.0) == pytest.approx(c / (c + u))
    assert m.posterior(1e6) == pytest.approx(1.0)
    assert m.posterior(-1e3) <= 1.0


@pytest.mark.parametrize("scores", [[], [1.0] * 9, [3.0] * 50])
def test_too_little_to_tell_two_components_is_none(scores: list[float]) -> None:
    assert fit(scores) is None


def test_scores_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        fit([1.0] * 20 + [float("nan")])
