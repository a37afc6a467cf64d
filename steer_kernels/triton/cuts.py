"""What top_k, top_p and min_p keep of a list.

And a draw from it, as far as a row's top-k list tells.

Mathematics  With w = exp((x - m) / temperature), all that the cuts keep is a prefix of the ranking
             (value descending, column ascending). A list of the first ranks decides it where the
             last of them is not kept: nothing beyond it is then. The token is the first kept column
             at which the running sum of w, in column order, exceeds uniform * sum w.
Movement     None: the list is in registers. It is sorted twice, by rank and by column.
Precision    float64 throughout.
"""

from __future__ import annotations

import triton
import triton.language as tl

from steer_kernels.triton.moments import LOG2_E
from steer_kernels.triton.topk import LOWEST_KEY, unpack

NO_COLUMN = tl.constexpr(2**31 - 1)


@triton.jit
def exponent(x, top, inverse_temperature):
    """(x - top) / temperature in float64.

    It is 0 at the top, even where that is +inf.
    """
    return tl.where(x == top, 0.0, x.to(tl.float64) - top) * inverse_temperature


@triton.jit
def tempered(x, top, inverse_temperature):
    """exp((x - top) / temperature) in float32.

    It is 1 at the top, even where that is infinite.
    """
    return tl.exp2(tl.where(x == top, 0.0, x - top) * (inverse_temperature * LOG2_E))


@triton.jit
def _weight(x, top, inverse_temperature):
    """The exponent, -inf for what is no element, and its exp."""
    log_weight = tl.where(x > float("-inf"), exponent(x, top, inverse_temperature), float("-inf"))
    return log_weight, tl.exp(log_weight)


@triton.jit
def _value_at(x, slot, at):
    return tl.max(tl.where(slot == at, x, float("-inf")), axis=0)


@triton.jit
def kept_of_list(x, slot, length, top, inverse_temperature, row_total, vocab_size, top_k, top_p,
                  least):  # fmt: skip
    """Which of a list's ranks are kept.

    Of the first `length` ranks; and whether no element beyond the list is kept.

    `x` is in order of rank. `row_total` is the sum of all weights; it is read where top_p cuts and
    top_k does not. `least` is the logarithm of min_p.
    """
    log_weight, weight = _weight(x, top, inverse_temperature)
    cuts_k = (top_k > 0) & (top_k < vocab_size)
    last = _value_at(x, slot, length - 1)
    kth = _value_at(x, slot, tl.minimum(top_k, length) - 1)
    within = (weight > 0.0) & (x >= tl.where(cuts_k & (top_k <= length), kth, float("-inf")))
    counted = tl.where(within, weight, 0.0)
    total = tl.where(cuts_k, tl.sum(counted, axis=0), row_total)
    before = tl.cumsum(counted, axis=0) - counted
    bound = tl.where(top_p < 1.0, top_p * total, float("inf"))
    kept = within & (log_weight >= least) & (before < bound)
    whole = (length == vocab_size) | (last == float("-inf"))  # nothing else has a weight
    last_kept = tl.max((kept & (slot == length - 1)).to(tl.int32), axis=0) != 0
    total_known = (top_p >= 1.0) | ~cuts_k | ((top_k < length) & (last < kth))
    return kept, whole | (~last_kept & total_known)


@triton.jit
def draw_from_list(
    best, length, top, inverse_temperature, row_total, vocab_size, top_k, top_p, least, uniform,
    K: tl.constexpr,
):  # fmt: skip
    """Draw a column from the list, if that decides it.

    Returns the column, its log-probability, and whether the list decides.
    """
    slot = tl.arange(0, K)
    keys = tl.sort(tl.where(slot < length, best, LOWEST_KEY), descending=True)
    x, ids = unpack(keys)
    x = tl.where(slot < length, x, float("-inf"))
    kept, decided = kept_of_list(x, slot, length, top, inverse_temperature, row_total, vocab_size,
                                  top_k, top_p, least)  # fmt: skip
    # By column: what is not kept goes to the end, with no weight.
    bits = x.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    column = tl.where(kept, ids.to(tl.int64), NO_COLUMN)
    by_column = tl.sort((column << 32) | bits)
    column = (by_column >> 32).to(tl.int32)
    x = (by_column & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    x = tl.where(column == NO_COLUMN, float("-inf"), x)
    log_weight, weight = _weight(x, top, inverse_temperature)
    total = tl.sum(weight, axis=0)
    passed = (tl.cumsum(weight, axis=0) > uniform * total) & (weight > 0.0)
    token = tl.min(tl.where(passed, column, NO_COLUMN), axis=0)
    if token == NO_COLUMN:  # rounding left the sum short: the last with a weight
        token = tl.max(tl.where(weight > 0.0, column, 0), axis=0)
    chosen = tl.sum(tl.where((column == token) & (weight > 0.0), log_weight, 0.0), axis=0)
    return token, chosen - tl.log(total), decided
