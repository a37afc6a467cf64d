"""The second launch of sample_logits, for undecided rows.

Their top-k list does not decide the cuts, so they have no token yet.

Mathematics  A cut of the ranking is a value t and a number of its ties. With A(v) the sum over the
             elements above v, of 1 for top_k and of w = exp((x - m) / temperature) for top_p,
             t = min {v : A(v) < bound}: of what equals t the first ceil((bound - A(t)) / w(t))
             columns are kept for top_p, and all for top_k. t is found among the 2^16 (bf16), 2^19
             (fp16) or 2^32 values of the dtype, three at a time: 8, 10 or 16 passes over the row.
Movement     A program a row; it leaves at once if the row has its token. Otherwise every pass reads
             the row again, from L2 after the first.
Bytes        8 a row if decided; else vocab_size * itemsize times 2, and for each of top_k and top_p
             times 8 to 17 more.
Precision    Weights, and their sums over 16 bytes of columns, in float32; all else in float64.
Order        Sums depend on the row's values alone.
Sync         None. It runs after the first launch on the same stream.
"""

from __future__ import annotations

import triton
import triton.language as tl

from steer_kernels.triton.cuts import NO_COLUMN, exponent
from steer_kernels.triton.moments import LOG2_E
from steer_kernels.triton.tiles import load_tile
from steer_kernels.triton.topk import ordered_bits


@triton.jit
def tempered(x, top, inverse_temperature):
    """exp((x - top) / temperature) in float32.

    It is 1 at the top, even where that is infinite.
    """
    return tl.exp2(tl.where(x == top, 0.0, x - top) * (inverse_temperature * LOG2_E))


@triton.jit
def _code(x, BITS: tl.constexpr):
    """An integer of BITS bits that sorts like the number, which is exact in as many."""
    return ordered_bits(x) >> (32 - BITS)


@triton.jit
def _value(code, BITS: tl.constexpr):
    bits = code.to(tl.int32) << (32 - BITS)
    return tl.where(bits < 0, (bits ^ 0x7FFFFFFF) & (-1 << (32 - BITS)), bits).to(
        tl.float32, bitcast=True
    )


@triton.jit
def _weights_of(x, code, real, floor, top, inverse_temperature, COUNT: tl.constexpr):
    inside = real & (code >= floor)
    if COUNT:
        return tl.where(inside, 1.0, 0.0)
    return tl.where(inside & (x > float("-inf")), tempered(x, top, inverse_temperature), 0.0)


@triton.jit
def _sums_above(
    start, skew, tiles, vocab_size, floor, a, b, c, top, inverse_temperature,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """A(a), A(b) and A(c) of the elements with codes from `floor` on, in one pass."""
    sum_a = tl.zeros((TILE // VEC,), tl.float64)
    sum_b = tl.zeros((TILE // VEC,), tl.float64)
    sum_c = tl.zeros((TILE // VEC,), tl.float64)
    for tile in range(tiles):
        cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
        code = _code(x, BITS)
        weight = _weights_of(x, code, cols < vocab_size, floor, top, inverse_temperature, COUNT)
        sum_a += tl.sum(tl.where(code > a, weight, 0.0), axis=1)
        sum_b += tl.sum(tl.where(code > b, weight, 0.0), axis=1)
        sum_c += tl.sum(tl.where(code > c, weight, 0.0), axis=1)
    return tl.sum(sum_a, axis=0), tl.sum(sum_b, axis=0), tl.sum(sum_c, axis=0)


@triton.jit
def _threshold(
    start, skew, tiles, vocab_size, floor, bound, top, inverse_temperature,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """The code of min {v : A(v) < bound}, and A of it."""
    LOWEST: tl.constexpr = -(1 << (BITS - 1))  # of a NaN: below every element
    high = _code(top, BITS).to(tl.int64)
    low = high * 0 + LOWEST  # A(low) >= bound > A(high)
    at_high = bound * 0.0
    while high - low > 1:
        quarter = (high - low + 3) // 4
        a = low + quarter
        b = tl.minimum(a + quarter, high)
        c = tl.minimum(b + quarter, high)
        at_a, at_b, at_c = _sums_above(
            start, skew, tiles, vocab_size, floor, a.to(tl.int32), b.to(tl.int32), c.to(tl.int32),
            top, inverse_temperature, TILE, VEC, BITS, COUNT)  # fmt: skip
        if at_a < bound:
            high, at_high = a, at_a
        elif at_b < bound:
            low, high, at_high = a, b, at_b
        elif at_c < bound:
            low, high, at_high = b, c, at_c
        else:
            low = c
    return high.to(tl.int32), at_high


@triton.jit
def _kept_weights(
    start, tile, skew, vocab_size, floor, code_p, ties, seen, top, inverse, inverse_temperature,
    least, TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Columns and codes of a tile, float32 weights (0 where not kept), and the ties so far."""
    cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
    code = _code(x, BITS)
    tied = ((code == code_p) & (cols < vocab_size)).to(tl.int32)
    in_group = tl.sum(tied, axis=1)
    earlier = seen + tl.cumsum(in_group, axis=0) - in_group
    order = earlier[:, None] + tl.cumsum(tied, axis=1) - tied
    weight = _weights_of(x, code, cols < vocab_size, floor, top, inverse_temperature, False)
    kept = (code > code_p) | ((code == code_p) & (order < ties))
    kept = kept & (exponent(x, top, inverse) >= least)
    return cols, code, tl.where(kept, weight, 0.0), seen + tl.sum(in_group, axis=0)


@triton.jit
def _draw_kept(
    start, skew, tiles, vocab_size, floor, code_p, ties, top, inverse, inverse_temperature, least,
    uniform, TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Column and log-probability of the token, in two passes over the row."""
    total = uniform * 0.0
    seen = 0
    last = 0  # column with a weight: stands in where rounding leaves the sum short
    for tile in range(tiles):
        cols, _codes, weight, seen = _kept_weights(
            start, tile, skew, vocab_size, floor, code_p, ties, seen, top, inverse,
            inverse_temperature, least, TILE, VEC, BITS)  # fmt: skip
        total += tl.sum(tl.sum(weight, axis=1).to(tl.float64), axis=0)
        last = tl.maximum(last, tl.max(tl.max(tl.where(weight > 0.0, cols, 0), axis=1), axis=0))
    target = uniform * total
    running = total * 0.0
    seen = 0
    token = NO_COLUMN
    for tile in range(tiles):
        if token == NO_COLUMN:
            cols, _codes, weight, seen = _kept_weights(
                start, tile, skew, vocab_size, floor, code_p, ties, seen, top, inverse,
                inverse_temperature, least, TILE, VEC, BITS)  # fmt: skip
            group = tl.sum(weight, axis=1).to(tl.float64)
            through = running + tl.cumsum(group, axis=0)
            inside = (through - group)[:, None] + tl.cumsum(weight, axis=1).to(tl.float64)
            passed = (inside > target) & (weight > 0.0)
            token = tl.min(tl.min(tl.where(passed, cols, NO_COLUMN), axis=1), axis=0)
            running += tl.sum(group, axis=0)
    token = tl.where(token == NO_COLUMN, last, token)
    logit = tl.load(start + token).to(tl.float32)
    return token, exponent(logit, top, inverse) - tl.log(total)


@triton.jit
def _cut_codes(
    start, skew, tiles, vocab_size, top_k, top_p, top, inverse_high,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Codes of the k-th element and of t for top_p, and how many ties of the latter are kept."""
    LOWEST: tl.constexpr = -(1 << (BITS - 1))
    floor = _code(top, BITS) * 0 + LOWEST
    if (top_k > 0) & (top_k < vocab_size):
        floor, _count = _threshold(start, skew, tiles, vocab_size, floor, top_p * 0.0 + top_k, top,
                                   inverse_high, TILE, VEC, BITS, True)  # fmt: skip
    code_p = floor * 0 + LOWEST
    ties = floor * 0 + NO_COLUMN
    if top_p < 1.0:
        total, _b, _c = _sums_above(
            start, skew, tiles, vocab_size, floor, code_p, code_p, code_p, top, inverse_high,
            TILE, VEC, BITS, False)  # fmt: skip
        bound = top_p * total
        code_p, above = _threshold(start, skew, tiles, vocab_size, floor, bound, top,
                                   inverse_high, TILE, VEC, BITS, False)  # fmt: skip
        weight = tempered(_value(code_p, BITS), top, inverse_high).to(tl.float64)
        fit = tl.ceil((bound - above) / weight)
        ties = tl.where(fit < 2.0e9, fit, 2.0e9).to(tl.int32)  # NaN of 0 / 0: all, no weight
    return floor, code_p, ties


@triton.jit
def bound_of_row(
    start, skew, tiles, vocab_size, top_k, top_p, least, top, inverse, inverse_high,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """What is kept of a row, as a bound.

    A value, a column and a weight. Kept is what lies above the value, and what equals it up to the
    column; and of both what has `least`, the logarithm of min_p. The weight is the sum of theirs.
    """
    LOWEST: tl.constexpr = -(1 << (BITS - 1))
    floor, code_p, ties = _cut_codes(start, skew, tiles, vocab_size, top_k, top_p, top,
                                     inverse_high, TILE, VEC, BITS)  # fmt: skip
    total = top_p * 0.0
    seen = 0
    edge = floor * 0 - 1
    for tile in range(tiles):
        cols, code, weight, seen = _kept_weights(
            start, tile, skew, vocab_size, floor, code_p, ties, seen, top, inverse, inverse_high,
            least, TILE, VEC, BITS)  # fmt: skip
        total += tl.sum(tl.sum(weight, axis=1).to(tl.float64), axis=0)
        tied = (code == code_p) & (weight > 0.0)
        edge = tl.maximum(edge, tl.max(tl.max(tl.where(tied, cols, -1), axis=1), axis=0))
    by_p = (top_p < 1.0) & (code_p >= floor)
    code = tl.where(by_p, code_p, floor)
    value = tl.where(code == LOWEST, float("-inf"), _value(code, BITS))
    return value, tl.where(by_p, edge, NO_COLUMN), total


@triton.jit(
    do_not_specialize=["row_stride", "vocab_size", "tiles", "top_k"],
    do_not_specialize_on_alignment=["logits"],
)
def select_kernel(
    logits, row_stride, vocab_size, tiles, uniforms, inverse_high, inverse_low, top_k, top_p_high,
    top_p_low, least_high, least_low, max_out, token_out, logprob_out,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if tl.load(token_out + row) < 0:
        start = logits + row * row_stride
        skew = (start.to(tl.int64) % 16 * VEC // 16).to(tl.int32)
        top = tl.load(max_out + row)
        uniform = tl.load(uniforms + row)
        inverse = uniform * 0.0 + inverse_high + inverse_low
        top_p = uniform * 0.0 + top_p_high + top_p_low
        least = uniform * 0.0 + least_high + least_low
        floor, code_p, ties = _cut_codes(start, skew, tiles, vocab_size, top_k, top_p, top,
                                         inverse_high, TILE, VEC, BITS)  # fmt: skip
        token, logprob = _draw_kept(
            start, skew, tiles, vocab_size, floor, code_p, ties, top, inverse, inverse_high, least,
            uniform, TILE, VEC, BITS)  # fmt: skip
        tl.store(token_out + row, token.to(tl.int64))
        tl.store(logprob_out + row, logprob.to(tl.float32))
