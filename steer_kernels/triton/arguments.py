"""The temperature and the cuts as kernels take them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from steer_kernels.ops._sampling import Cuts


def _in_two(value: float) -> tuple[float, float]:
    """A float64 as the sum of two float32, which is what a kernel takes."""
    high = float(np.float32(value))
    return (high, value - high) if math.isfinite(high) else (high, 0.0)


class Scalars(NamedTuple):
    """Numbers that a kernel takes, a float64 as two float32."""

    inverse_high: float  # of the temperature; 1 where that is 0
    inverse_low: float
    top_k: int
    top_p_high: float
    top_p_low: float
    least_high: float  # the logarithm of min_p
    least_low: float

    @classmethod
    def of(cls, cuts: Cuts) -> Scalars:
        temperature, top_k, top_p, min_p = cuts
        inverse = min(max(1.0 / temperature, 1e-37), 1e37) if temperature else 1.0
        least = math.log(min_p) if min_p else -math.inf
        return cls(*_in_two(inverse), top_k, *_in_two(top_p), *_in_two(least))
