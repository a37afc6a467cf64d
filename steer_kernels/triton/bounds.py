"""What the cuts keep of a row, and its weight.

Mathematics  All that the cuts keep of a row is a prefix of its ranking (value descending, column
             ascending), and of that what min_p asks for. So it is told by a bound: a value, and the
             last kept column of those that equal it.
Movement     A program a row. The bound is found in the row's list where that decides it (cuts.py);
             else select.py has found it with the token; the total weight of a row of which all is
             kept, from the masses of its tiles. One element more is read: the draft's.
Bytes        8 a list slot and 12 a tile.
Precision    float64, but for weights that select.py has summed.
Sync         None. It runs after sample_logits' launches on the same stream.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from steer_kernels.ops._sampling import Cuts, cuts_something
from steer_kernels.triton.arguments import Scalars
from steer_kernels.triton.cuts import NO_COLUMN, exponent, kept_of_list
from steer_kernels.triton.heuristics import LAUNCH, list_size
from steer_kernels.triton.moments import merge_moments
from steer_kernels.triton.sample_logits import Drawn, total_mass
from steer_kernels.triton.select import EDGE, FIELDS, TOTAL, VALUE


@triton.jit
def _bound_of_list(
    values, ids, length, top, inverse, row_total, vocab_size, top_k, top_p, least, K: tl.constexpr
):  # fmt: skip
    """Value and column of the bound, and the total weight."""
    slot = tl.arange(0, K)
    x = tl.load(values + slot, mask=slot < length, other=float("-inf"))
    column = tl.load(ids + slot, mask=slot < length, other=0).to(tl.int32)
    kept, _decided = kept_of_list(x, slot, length, top, inverse, row_total, vocab_size, top_k,
                                  top_p, least)  # fmt: skip
    total = tl.sum(tl.where(kept, tl.exp(exponent(x, top, inverse)), 0.0), axis=0)
    last = tl.sum(kept.to(tl.int32), axis=0) - 1
    cuts_k = (top_k > 0) & (top_k < vocab_size) & (top_k <= length)
    # Without top_p ties of the k-th stay, and so does what has no weight in float64.
    at = tl.where(top_p < 1.0, last, tl.where(cuts_k, top_k - 1, -1))
    value = tl.max(tl.where(slot == at, x, float("-inf")), axis=0)
    edge = tl.max(tl.where(slot == last, column, 0), axis=0)
    return value, tl.where(top_p < 1.0, edge, NO_COLUMN), total


@triton.jit
def is_kept(x, cols, value, edge, top, inverse, least):
    """Whether elements are kept by a bound and min_p."""
    above = (x > value) | ((x == value) & (cols <= edge))
    return above & (exponent(x, top, inverse) >= least)


@triton.jit(
    do_not_specialize=["row_stride", "vocab_size", "length", "tiles", "top_k"],
    do_not_specialize_on_alignment=["logits"],
)
def bounds_kernel(
    logits, row_stride, vocab_size, length, tiles, drafts, inverse_high, inverse_low, top_k,
    top_p_high, top_p_low, least_high, least_low, moments, masses, found, max_out, values_out,
    ids_out, valid_out, value_out, edge_out, total_out, draft_logprob_out,
    K: tl.constexpr, GREEDY: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """Bound and norm of each row of one model.

    And the log-probability of its draft.
    """
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    zero = (row * 0).to(tl.float64)
    inverse = zero + 1.0 if GREEDY else zero + inverse_high + inverse_low
    least = zero + float("-inf") if GREEDY else zero + least_high + least_low
    draft = tl.load(drafts + row)
    known = (draft >= 0) & (draft < vocab_size)
    tl.store(draft_logprob_out + row, float("nan"))
    if tl.load(valid_out + row) != 0:
        top = tl.load(max_out + row)
        value = zero.to(tl.float32) + float("-inf")
        edge = draft.to(tl.int32) * 0 + NO_COLUMN
        if GREEDY:
            _top, raw, _slope = merge_moments(moments + row * 3 * tiles, tiles)
            total = raw.to(tl.float64)
        else:
            total = total_mass(moments + row * 3 * tiles, masses + row * tiles, tiles, top, inverse)
        if CUT:
            top_p = zero + top_p_high + top_p_low
            value, edge, total = _bound_of_list(
                values_out + row * length, ids_out + row * length, length, top, inverse, total,
                vocab_size, top_k, top_p, least, K)  # fmt: skip
            found += row * FIELDS
            of_search = tl.load(found + TOTAL)
            if of_search >= 0.0:
                value = tl.load(found + VALUE).to(tl.float32)
                edge = tl.load(found + EDGE).to(tl.int32)
                total = of_search
        tl.store(value_out + row, value)
        tl.store(edge_out + row, edge)
        tl.store(total_out + row, total)
        if known:
            x = tl.load(start + draft).to(tl.float32)
            kept = is_kept(x, draft.to(tl.int32), value, edge, top, inverse, least)
            logprob = exponent(x, top, inverse) - tl.log(total)
            tl.store(draft_logprob_out + row, tl.where(kept, logprob, float("-inf")))


# ---- host ---------------------------------------------------------------------------------------


class Bounds(NamedTuple):
    """What the cuts keep of rows, and its weight."""

    value: torch.Tensor  # f32 [B]
    edge: torch.Tensor  # i32 [B], the last kept column of those at the value
    total: torch.Tensor  # f64 [B]
    draft_logprob: torch.Tensor  # f64 [B]


def bounds_of(
    logits: torch.Tensor, drawn: Drawn, drafts: torch.Tensor, cuts: Cuts, vocab_size: int
) -> Bounds:
    """Launch once, for one row or more of one model.

    Args:
        drawn: with whole lists, where something is cut.
        drafts: [B] int64, contiguous; what is no column has the log-probability NaN.
    """

    def new(dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(logits.shape[0], dtype=dtype, device=logits.device)

    bounds = Bounds(new(torch.float32), new(torch.int32), new(torch.float64), new(torch.float64))
    stats, length = drawn.stats, drawn.stats.topk_ids.shape[1]
    bounds_kernel[(logits.shape[0],)](
        logits, logits.stride(0), vocab_size, length, drawn.split.tiles, drafts, *Scalars.of(cuts),
        drawn.moments, drawn.masses, drawn.masses if drawn.found is None else drawn.found,
        stats.max_logit, stats.topk_logits, stats.topk_ids,
        stats.valid, *bounds,
        K=list_size(length), GREEDY=cuts.temperature == 0, CUT=cuts_something(cuts, vocab_size),
        **LAUNCH,
    )  # fmt: skip
    return bounds
