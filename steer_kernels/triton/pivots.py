"""The value down to which a cut keeps a row.

It is found a step at a time.

Mathematics  With A(v) the sum of weights above v, t = min {v : A(v) < bound}. A value is told by
             its code, an integer of 16 (bf16), 19 (fp16) or 32 bits that sorts like the numbers of
             its dtype. Where t lies above LOW and up to HIGH, a step finds A at 15 codes between
             them, and of base, below which nothing counts: so 4 bits of t.
Movement     The tile is in registers: for 15 pivots and base one comparison, selection and addition
             an element each.
Bytes        64 a tile.
Order        Sums of a tile are float32 trees of its columns, over tiles float64 in their order: so
             A falls as v grows, to the bit, in every step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from steer_kernels.triton.cuts import exponent, tempered
from steer_kernels.triton.moments import MERGE_TILES
from steer_kernels.triton.topk import ordered_bits

PIVOTS = tl.constexpr(16)
HALF = tl.constexpr(8)
ALL_TIES = tl.constexpr(2.0e9)
NEGATIVE_INFINITY = tl.constexpr(-2139095041)  # its `ordered_bits`

# ---- codes and pivots ------------------------------------------------------------------------


@triton.jit
def code_of(x, BITS: tl.constexpr):
    return ordered_bits(x) >> (32 - BITS)


@triton.jit
def value_of(code, BITS: tl.constexpr):
    bits = code << (32 - BITS)
    return tl.where(bits < 0, (bits ^ 0x7FFFFFFF) & (-1 << (32 - BITS)), bits).to(
        tl.float32, bitcast=True
    )


@triton.jit
def _pivots(i, base, low, high):
    """Codes from above `low` to `high`, where t may be; and at the last place `base`."""
    span = (high - low).to(tl.uint32)  # codes of float32 lie up to 2^32 apart
    apart = (span + (PIVOTS - 1)) // PIVOTS
    above = tl.minimum((i + 1).to(tl.uint32) * apart, span)
    return tl.where(i == PIVOTS - 1, base, low + above.to(tl.int32))


# ---- sums of a tile --------------------------------------------------------------------------


@triton.jit
def _above(x, weight, half, base, low, high, AT: tl.constexpr, BITS: tl.constexpr):
    """Of 16 bytes of columns the sums above a pivot."""
    pivot = value_of(_pivots(low * 0 + half * HALF + AT, base, low, high), BITS)
    return tl.sum(tl.where(x > pivot, weight, 0.0), axis=1)


@triton.jit
def _above_two(x, weight, half, base, low, high, AT: tl.constexpr, BITS: tl.constexpr):
    return tl.join(_above(x, weight, half, base, low, high, AT, BITS),
                   _above(x, weight, half, base, low, high, AT + 4, BITS))  # fmt: skip


@triton.jit
def _above_four(x, weight, half, base, low, high, AT: tl.constexpr, BITS: tl.constexpr):
    return tl.join(_above_two(x, weight, half, base, low, high, AT, BITS),
                   _above_two(x, weight, half, base, low, high, AT + 2, BITS))  # fmt: skip


@triton.jit
def store_sums_above(sums, x, weight, base, low, high, BITS: tl.constexpr):
    """Of a tile; in two halves, which takes fewer registers."""
    for half in range(2):
        above = tl.join(_above_four(x, weight, half, base, low, high, 0, BITS),
                        _above_four(x, weight, half, base, low, high, 1, BITS))  # fmt: skip
        above = tl.sum(tl.reshape(above, (x.shape[0], HALF)), axis=0)
        tl.store(sums + half * HALF + tl.arange(0, HALF), above)


# ---- steps of a row --------------------------------------------------------------------------


@triton.jit
def range_of_count(top, count, BITS: tl.constexpr):
    """Base, LOW, HIGH, bound and A(HIGH) as top_k begins."""
    high = code_of(top, BITS)
    base = high * 0 + (NEGATIVE_INFINITY >> (32 - BITS))
    return base, base, high, count, count * 0.0


@triton.jit
def range_of_mass(base, top, vocab_size, top_p, inverse, BITS: tl.constexpr):
    """The same of top_p, whose first step finds the bound."""
    high = code_of(top, BITS)
    least = (top + tl.log((1.0 - top_p) / vocab_size) / inverse).to(tl.float32)
    low = tl.minimum(tl.maximum(base, code_of(least, BITS) - 1), high - 1)
    return base, low, high, top_p * 0.0 - 1.0, top_p * 0.0


@triton.jit
def _merged(sums, tiles):
    """A at the pivots, of all tiles."""
    i = tl.arange(0, PIVOTS)
    total = tl.zeros((PIVOTS,), tl.float64)
    for first in range(0, tiles, MERGE_TILES):
        tile = first + tl.arange(0, MERGE_TILES)
        at = tl.load(sums + tile[:, None] * PIVOTS + i[None, :], mask=(tile < tiles)[:, None],
                     other=0.0, cache_modifier=".cg")  # fmt: skip
        total += tl.sum(at.to(tl.float64), axis=0)
    return total


@triton.jit
def narrowed(sums, tiles, base, low, high, bound, above, top_p):
    """LOW, HIGH, bound and A(HIGH) after a step."""
    at = _merged(sums, tiles)
    i = tl.arange(0, PIVOTS)
    if bound < 0.0:
        bound = top_p * tl.sum(tl.where(i == PIVOTS - 1, at, 0.0), axis=0)
    pivots = _pivots(i, base, low, high)
    reaches, under = (i < PIVOTS - 1) & (at >= bound), (i < PIVOTS - 1) & (at < bound)
    above = tl.max(tl.where(under, at, above), axis=0)
    low = tl.max(tl.where(reaches, pivots, low), axis=0)
    return low, tl.min(tl.where(under, pivots, high), axis=0), bound, above


@triton.jit
def ties_kept(code, bound, above, top, inverse_temperature, BITS: tl.constexpr):
    """How many that equal the t of top_p are kept."""
    weight = tempered(value_of(code, BITS), top, inverse_temperature).to(tl.float64)
    return tl.minimum(tl.ceil((bound - above) / weight), ALL_TIES)


@triton.jit
def with_min_p(code, ties, top, inverse, least, BITS: tl.constexpr):
    """A cut and its ties; none where min_p keeps less.

    The cut is then the code below the last that min_p keeps.
    """
    near = code_of((top + least / inverse).to(tl.float32), BITS) - 4 + tl.arange(0, 8)
    passes = exponent(value_of(near, BITS), top, inverse) >= least
    lowest = tl.min(tl.where(passes, near, code_of(top, BITS)), axis=0)
    return tl.maximum(code, lowest - 1), tl.where(lowest > code, 0.0, ties)
