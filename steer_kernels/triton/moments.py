"""Moments (m, S, T) of tiles and of a row.

Mathematics  Per tile: m = max x, S = sum exp(x - m), T = sum (x - m) exp(x - m). Tiles merge by
             moving them to the common maximum M: S' = w S, T' = w (T + (m - M) S), w = exp(m - M).
Order        Tiles merge in ascending order, whatever programs they came from.
"""

from __future__ import annotations

import triton
import triton.language as tl

WEIGHTLESS = tl.constexpr(-150.0)  # exp of this, and of all below, is 0 in float32
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
