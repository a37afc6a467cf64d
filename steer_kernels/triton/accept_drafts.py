"""The acceptance test of lossless speculation.

Mathematics  p and q are the distributions of a row of logits and of its draft logits after
             temperature and cuts. The draft d is accepted where uniform < a, a = min(1, p(d)/q(d));
             else the token is the first column at which the running sum of max(0, p - q) exceeds
             (uniform - a) / (1 - a) of its total: the tile by the running sum over tiles, then 16
             bytes of it, then the column.
Movement     sample_logits of both models' rows, and what is kept of each (bounds.py). Refused
             places alone read both rows again, dealt to programs as logit_stats deals them, and
             the tile of the token once more.
Bytes        As sample_logits for each model; a refused place as many again, and 8 a tile.
Order        Masses are summed in the order of the tiles, so the split of a row changes nothing.
Precision    Weights in float32; norms, ratios, masses of tiles and running sums in float64.
Sync         Six launches on one stream, eight with cuts; three or four if no draft logits count.
             In the last one the last program of a refused row draws; rows that are not refused
             leave at once: which they are is known on the device only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from steer_kernels.ops._sampling import Cuts
from steer_kernels.triton.arguments import Scalars
from steer_kernels.triton.bounds import Bounds, bounds_of, is_kept
from steer_kernels.triton.cuts import exponent, tempered
from steer_kernels.triton.draw import choose_column, choose_tile
from steer_kernels.triton.heuristics import LAUNCH, TILE, list_size
from steer_kernels.triton.logit_stats import device_of, last_to_finish
from steer_kernels.triton.sample_logits import Drawn, draw_rows
from steer_kernels.triton.tiles import load_tile

BELOW_ONE = tl.constexpr(1.0 - 2.0**-53)
CLOSED = tl.constexpr(-1.0)  # the number for the redraw of a row that needs none
SINGLES = tl.constexpr(6)  # columns of Packed

# ---- device: the verdicts -----------------------------------------------------------------------


@triton.jit(do_not_specialize=["vocab_size", "k", "length"])
def verdict_kernel(
    vocab_size, k, length, uniforms, drafts, max_in, lse_in, entropy_in, values_in, ids_in,
    valid_in, token_in, logprob_in, log_p_in, log_q_in, small_valid_in, packed, again_out,
    K: tl.constexpr, RATIO: tl.constexpr,
):  # fmt: skip
    """A packed row for each place.

    One that is refused has p's own token, and a number for the redraw.
    """
    row = tl.program_id(0).to(tl.int64)
    uniform = tl.load(uniforms + row)
    draft = tl.load(drafts + row)
    good = (uniform >= 0.0) & (uniform < 1.0) & (draft >= -1) & (draft < vocab_size)
    drafted = good & (draft >= 0)
    valid = tl.load(valid_in + row) != 0
    log_p = tl.load(log_p_in + row)
    token = tl.load(token_in + row)
    logprob = tl.load(logprob_in + row).to(tl.float64)
    accepted = drafted & (token == draft)
    again = uniform * 0.0 + CLOSED
    if RATIO:
        valid = valid & ((draft < 0) | (draft >= vocab_size) | (tl.load(small_valid_in + row) != 0))
        log_q = tl.load(log_q_in + row)
        ratio = tl.exp(tl.minimum(log_p - log_q, 0.0))
        certain = tl.where(log_p > float("-inf"), 1.0, 0.0).to(tl.float64)
        ratio = tl.where(log_q > float("-inf"), ratio, certain)
        accepted = drafted & (uniform < ratio)
        refused = drafted & valid & (uniform >= ratio)
        redraw = tl.minimum((uniform - ratio) / (1.0 - ratio), BELOW_ONE)
        again = tl.where(refused, redraw, CLOSED)
        token = tl.where(accepted, draft, token)
        logprob = tl.where(accepted, log_p, logprob)
        tl.store(again_out + row, again)
    nan = float("nan")
    sound = valid & good
    packed += row * (SINGLES + 2 * k + 2)
    tl.store(packed, tl.where(sound, token, 0).to(tl.float64))
    tl.store(packed + 1, valid.to(tl.float64))
    tl.store(packed + 2, tl.where(valid, tl.load(max_in + row), nan).to(tl.float64))
    tl.store(packed + 3, tl.where(valid, tl.load(lse_in + row), nan).to(tl.float64))
    tl.store(packed + 4, tl.where(valid, tl.load(entropy_in + row), nan).to(tl.float64))
    tl.store(packed + 5, tl.where(sound, logprob, nan).to(tl.float32).to(tl.float64))
    slot = tl.arange(0, K)
    values = tl.load(values_in + row * length + slot, mask=slot < k, other=0.0)
    ids = tl.load(ids_in + row * length + slot, mask=slot < k, other=0)
    packed += SINGLES
    tl.store(packed + slot, tl.where(valid, values, nan).to(tl.float64), mask=slot < k)
    tl.store(packed + k + slot, tl.where(valid, ids, slot.to(tl.int64)).to(tl.float64),
             mask=slot < k)  # fmt: skip
    shown = tl.where(valid & drafted, log_p, nan)
    tl.store(packed + 2 * k, shown.to(tl.float32).to(tl.float64))
    tl.store(packed + 2 * k + 1, (accepted & valid).to(tl.float64))


# ---- device: the redraw -------------------------------------------------------------------------


@triton.jit
def _weights_of_tile(
    start, tile, skew, vocab_size, value, edge, total, top, inverse, inverse_high, least,
    TILE: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Columns, and float32 probabilities after the cuts."""
    cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
    kept = is_kept(x, cols, value, edge, top, inverse, least) & (x > float("-inf"))
    weight = tempered(x, top, inverse_high) * (1.0 / total).to(tl.float32)
    return cols, tl.where(kept & (cols < vocab_size), weight, 0.0)


@triton.jit
def _rest_of_tile(
    start, start_q, tile, skew, skew_q, vocab_size, value, edge, total, top, value_q, edge_q,
    total_q, top_q, inverse, inverse_high, least,
    TILE: tl.constexpr, VEC: tl.constexpr, SMALL_VEC: tl.constexpr,
):  # fmt: skip
    """Columns of a tile, and max(0, p - q)."""
    cols, p = _weights_of_tile(start, tile, skew, vocab_size, value, edge, total, top, inverse,
                               inverse_high, least, TILE, VEC)  # fmt: skip
    _cols, q = _weights_of_tile(start_q, tile, skew_q, vocab_size, value_q, edge_q, total_q, top_q,
                                inverse, inverse_high, least, TILE, SMALL_VEC)  # fmt: skip
    return cols, tl.maximum(p - tl.reshape(q, (TILE // VEC, VEC)), 0.0)


@triton.jit(
    do_not_specialize=["row_stride", "small_stride", "vocab_size", "k", "tiles", "tiles_per_split",
                       "splits"],
    do_not_specialize_on_alignment=["logits", "small"],
)  # fmt: skip
def redraw_kernel(
    logits, row_stride, small, small_stride, vocab_size, k, tiles, tiles_per_split, splits, again,
    inverse_high, inverse_low, least_high, least_low, max_p, value_p, edge_p, total_p, max_q,
    value_q, edge_q, total_q, rests, arrived, packed,
    TILE: tl.constexpr, VEC: tl.constexpr, SMALL_VEC: tl.constexpr,
):  # fmt: skip
    """The tokens of refused places."""
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    uniform = tl.load(again + row)
    if uniform >= 0.0:
        start = logits + row * row_stride
        start_q = small + row * small_stride
        skew = (start.to(tl.int64) % 16 * VEC // 16).to(tl.int32)
        skew_q = (start_q.to(tl.int64) % 16 * SMALL_VEC // 16).to(tl.int32)
        inverse = uniform * 0.0 + inverse_high + inverse_low
        least = uniform * 0.0 + least_high + least_low
        top = tl.load(max_p + row)
        top_q = tl.load(max_q + row)
        value = tl.load(value_p + row)
        bound_q = tl.load(value_q + row)
        edge = tl.load(edge_p + row)
        last_q = tl.load(edge_q + row)
        total = tl.load(total_p + row)
        norm_q = tl.load(total_q + row)
        rests += row * tiles
        first = split * tiles_per_split
        for tile in range(first, tl.minimum(first + tiles_per_split, tiles)):
            _cols, rest = _rest_of_tile(
                start, start_q, tile, skew, skew_q, vocab_size, value, edge, total, top, bound_q,
                last_q, norm_q, top_q, inverse, inverse_high, least, TILE, VEC,
                SMALL_VEC)  # fmt: skip
            tl.store(rests + tile, tl.sum(tl.sum(rest, axis=1).to(tl.float64), axis=0))
        if last_to_finish(arrived + row, splits):
            tile, below, target, mass = choose_tile(rests, tiles, uniform)
            if mass > 0.0:  # else rounding left nothing: p's own token stands
                cols, rest = _rest_of_tile(
                    start, start_q, tile, skew, skew_q, vocab_size, value, edge, total, top,
                    bound_q, last_q, norm_q, top_q, inverse, inverse_high, least, TILE, VEC,
                    SMALL_VEC)  # fmt: skip
                column = choose_column(rest, cols, target - below)
                logit = tl.load(start + column).to(tl.float32)
                logprob = exponent(logit, top, inverse) - tl.log(total)
                packed += row * (SINGLES + 2 * k + 2)
                tl.store(packed, column.to(tl.float64))
                tl.store(packed + 5, logprob.to(tl.float32).to(tl.float64))


# ---- host ---------------------------------------------------------------------------------------


def _redraw(
    logits: torch.Tensor,
    small: torch.Tensor,
    sides: tuple[Drawn, Bounds, Drawn, Bounds],
    again: torch.Tensor,
    packed: torch.Tensor,
    scalars: Scalars,
    k: int,
    vocab_size: int,
) -> None:
    drawn, bounds, small_drawn, small_bounds = sides
    rows, split = logits.shape[0], drawn.split
    rests = torch.empty((rows, split.tiles), dtype=torch.float64, device=logits.device)
    arrived = torch.zeros(rows, dtype=torch.int32, device=logits.device)
    redraw_kernel[(rows * split.splits,)](
        logits, logits.stride(0), small, small.stride(0), vocab_size, k, split.tiles,
        split.tiles_per_split, split.splits, again, scalars.inverse_high, scalars.inverse_low,
        scalars.least_high, scalars.least_low, drawn.stats.max_logit, *bounds[:3],
        small_drawn.stats.max_logit, *small_bounds[:3], rests, arrived, packed,
        TILE=TILE, VEC=16 // logits.element_size(), SMALL_VEC=16 // small.element_size(), **LAUNCH,
    )  # fmt: skip


def accept_drafts_triton(
    logits: torch.Tensor,
    drafts: torch.Tensor,
    uniform: torch.Tensor,
    draft_logits: torch.Tensor | None,
    cuts: Cuts,
    k: int,
    vocab_size: int,
) -> torch.Tensor:
    """The packed result of `accept_drafts`.

    f64 [B, 6 + 2 k + 2]. The arguments are taken as checked, but for the values of `uniform` and
    `drafts`: a row where one of them is out of its range is given the token 0 and NaN as its
    log-probabilities.
    """
    rows, device = logits.shape[0], logits.device
    packed = torch.empty((rows, 6 + 2 * k + 2), dtype=torch.float64, device=device)
    if not rows:
        return packed
    uniforms, drafts = uniform.double().contiguous(), drafts.contiguous()
    drawn = draw_rows(logits, uniforms, cuts, k, vocab_size, whole_lists=True)
    small = draft_logits if cuts.temperature != 0 else None
    again = torch.empty(rows, dtype=torch.float64, device=device)
    with device_of(logits):
        bounds = bounds_of(logits, drawn, drafts, cuts, vocab_size)
        small_drawn, small_bounds = drawn, bounds
        if small is not None:
            small_drawn = draw_rows(small, uniforms, cuts, 1, vocab_size, whole_lists=True)
            small_bounds = bounds_of(small, small_drawn, drafts, cuts, vocab_size)
        stats = drawn.stats
        verdict_kernel[(rows,)](
            vocab_size, k, stats.topk_ids.shape[1], uniforms, drafts, stats.max_logit, stats.lse,
            stats.entropy, stats.topk_logits, stats.topk_ids, stats.valid, drawn.token,
            drawn.logprob, bounds.draft_logprob, small_bounds.draft_logprob,
            small_drawn.stats.valid, packed, again,
            K=list_size(k), RATIO=small is not None, **LAUNCH,
        )  # fmt: skip
        if small is not None:
            _redraw(logits, small, (drawn, bounds, small_drawn, small_bounds), again, packed,
                    Scalars.of(cuts), k, vocab_size)  # fmt: skip
    return packed
