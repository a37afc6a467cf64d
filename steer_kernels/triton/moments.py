"""Moments (m, S, T) of tiles and of a row.

Mathematics  Per tile: m = max x, S = sum exp(x - m), T = sum (x - m) exp(x - m). Tiles merge by
             moving them to the common maximum M: S' = w S, T' = w (T + (m - M) S), w = exp(m - M).
             Powers of a tile's columns are of two, exp(d) = 2^(d log2 e), as the machine has them;
             T is then multiplied by log 2.
Order        Tiles merge in ascending order, whatever programs they came from.
"""

from __future__ import annotations

import triton
import triton.language as tl

WEIGHTLESS = tl.constexpr(-150.0)  # 2 to this, e to this and all below is 0 in float32
LARGEST = tl.constexpr(3.4028234663852886e38)  # finite float32
LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2 = tl.constexpr(0.6931471805599453)
MERGE_TILES = tl.constexpr(128)  # tiles merged at a time, in ascending order


@triton.jit
def weights(x, top):
    """exp(x - top) and (x - top) exp(x - top).

    x == top == +inf and 0 * inf are made safe. A top of -inf is taken for 0, so that -inf weighs
    nothing. NaN stays NaN in the first result.
    """
    base = tl.where(top == float("-inf"), 0.0, top)
    delta = tl.where(x == base, 0.0, x - base)
    weight = tl.exp(delta)
    return weight, tl.maximum(delta, WEIGHTLESS) * weight


@triton.jit
def tile_sum(x):
    return tl.sum(tl.sum(x, axis=1), axis=0)


@triton.jit
def powers(x, top):
    """The exponents of two in exp(x - top).

    Of a tile with the maximum `top`.

    They are at most 0, and that is the one guard an element needs. With a top of +inf the base is
    the largest finite number and all are lowered: what equals the top is still above 0, and what
    is finite weighs nothing. With a top of -inf the base is 0 and all are -inf. NaN stays NaN.
    """
    base = tl.where(top == float("-inf"), 0.0, tl.minimum(top, LARGEST))
    lowered = tl.where(top == float("inf"), 2 * WEIGHTLESS, 0.0)
    power = tl.fma(x - base, LOG2_E, lowered)
    return tl.minimum(power, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def moments_of(power):
    """(S, T) of a tile's `powers`.

    2^power is 0 where it would be denormal on a GPU.
    """
    weight = tl.exp2(power)
    return tile_sum(weight), tile_sum(tl.maximum(power, WEIGHTLESS) * weight) * LOG_2


@triton.jit
def merge_moments(moments, tiles):
    """(M, S, T) of a row from its tiles' moments.

    `moments` [3, tiles] are merged in ascending order.
    """
    top = float("-inf")
    total = 0.0
    slope = 0.0
    for first in range(0, tiles, MERGE_TILES):
        tile = first + tl.arange(0, MERGE_TILES)
        here = tile < tiles
        m = tl.load(moments + tile, mask=here, other=float("-inf"), cache_modifier=".cg")
        s = tl.load(moments + tiles + tile, mask=here, other=0.0, cache_modifier=".cg")
        t = tl.load(moments + 2 * tiles + tile, mask=here, other=0.0, cache_modifier=".cg")
        new_top = tl.maximum(top, tl.max(m, axis=0))
        w, dw = weights(m, new_top)
        w0, dw0 = weights(top, new_top)
        slope = w0 * slope + dw0 * total + tl.sum(w * t + dw * s, axis=0)
        total = w0 * total + tl.sum(w * s, axis=0)
        top = new_top
    return top, total, slope
