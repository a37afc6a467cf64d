"""The second launch of sample_logits, for undecided rows.

Their top-k list does not decide the cuts, so they have no token yet.

Mathematics  With A(v) the sum over the elements above v, of 1 for top_k and of
             w = exp((x - m) / temperature) for top_p, a cut is at t = min {v : A(v) < bound}. All
             that equals the t of top_k is kept, of what equals that of top_p the first
             ceil((bound - A(t)) / w(t)) columns. As there are V elements and the largest weighs 1,
             the t of top_p is above m + temperature * log((1 - top_p) / V): often that leaves 8
             bits to find. min_p is a value too. Steps: pivots.py for each cut, then the draw: the
             tile, then the column.
Movement     In a step each part of a row is read once, by the program that has drawn it, which
             stores sums of every tile; the last one to arrive merges these. After the draw it reads
             one tile again, and a second one where the bound is asked for.
Bytes        8 a program if decided; else vocab_size * itemsize a step, from L2 after the first,
             and 128 a tile. Steps are 4 (bf16), 5 (fp16) or 8 (fp32) at most for each of top_k and
             top_p, and one.
Order        As pivots.py: the split of a row changes nothing.
Precision    Weights and their sums in a tile in float32; all else in float64.
Sync         One launch, after the first on the same stream; turns.py, on the row's token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from steer_kernels.ops._sampling import Cuts
from steer_kernels.triton import turns
from steer_kernels.triton.arguments import Scalars
from steer_kernels.triton.cuts import NO_COLUMN, exponent, tempered
from steer_kernels.triton.draw import (
    choose_column,
    choose_tile,
    kept_of_tile,
    masses_of,
    store_kept_masses,
)
from steer_kernels.triton.heuristics import CODE_BITS, LAUNCH, TILE, RowSplit
from steer_kernels.triton.moments import tile_sum
from steer_kernels.triton.pivots import (
    ALL_TIES,
    PIVOTS,
    narrowed,
    range_of_count,
    range_of_mass,
    store_sums_above,
    ties_kept,
    value_of,
    with_min_p,
)
from steer_kernels.triton.tiles import load_tile

# What a row does next.
COUNTS = tl.constexpr(0)
MASSES = tl.constexpr(1)
DRAWS = tl.constexpr(2)
DONE = tl.constexpr(3)
# Fields of a row's state, float64. To draw, HIGH is the cut and BOUND the number of its ties that
# are kept; when that is done, LOW is how many programs have arrived. From VALUE on there is the
# bound of what is kept, as in bounds.py, and the token; TOTAL is -1 where the list decides.
KIND = tl.constexpr(0)
BASE = tl.constexpr(1)
LOW = tl.constexpr(2)
HIGH = tl.constexpr(3)
BOUND = tl.constexpr(4)
ABOVE = tl.constexpr(5)  # A(HIGH)
TOP = tl.constexpr(6)
UNIFORM = tl.constexpr(7)
VALUE = tl.constexpr(8)
EDGE = tl.constexpr(9)
TOTAL = tl.constexpr(10)
TOKEN = tl.constexpr(11)
FIELDS = tl.constexpr(12)

# ---- device: steps ---------------------------------------------------------------------------


@triton.jit
def _store_state(state, kind, base, low, high, bound, above):
    tl.store(state + KIND, kind.to(tl.float64))
    tl.store(state + BASE, base.to(tl.float64))
    tl.store(state + LOW, low.to(tl.float64))
    tl.store(state + HIGH, high.to(tl.float64))
    tl.store(state + BOUND, bound)
    tl.store(state + ABOVE, above)


@triton.jit
def _load_state(state):
    kind = tl.load(state + KIND, cache_modifier=".cg").to(tl.int32)
    base = tl.load(state + BASE, cache_modifier=".cg").to(tl.int32)
    low = tl.load(state + LOW, cache_modifier=".cg").to(tl.int32)
    high = tl.load(state + HIGH, cache_modifier=".cg").to(tl.int32)
    return kind, base, low, high


@triton.jit
def _first_state(state, number, vocab_size, top_k, top_p, least, top, uniform, inverse,
                 BITS: tl.constexpr):  # fmt: skip
    """What all programs of the first step know; one stores it."""
    cuts_k = (top_k > 0) & (top_k < vocab_size)
    kind = tl.where(cuts_k, COUNTS, tl.where(top_p < 1.0, MASSES, DRAWS)).to(tl.int32)
    base, low, high, bound, above = range_of_count(top, top_p * 0.0 + top_k, BITS)
    if kind == MASSES:
        base, low, high, bound, above = range_of_mass(base, top, vocab_size, top_p, inverse, BITS)
    if kind == DRAWS:
        high, bound = with_min_p(base, above, top, inverse, least, BITS)
    if number == 0:
        _store_state(state, kind, base, low, high, bound, above)
        tl.store(state + TOP, top.to(tl.float64))
        tl.store(state + UNIFORM, uniform)
    return kind, base, low, high


@triton.jit
def _store_sums(
    start, tile, skew, vocab_size, sums, kind, base, low, high, top, inverse_temperature,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Of a tile what the step asks for; to draw, the mass above the cut and the ties."""
    _cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
    weight = tempered(x, top, inverse_temperature)
    if kind == DRAWS:
        value = value_of(high, BITS)
        tl.store(sums, tile_sum(tl.where(x > value, weight, 0.0)))
        tl.store(sums + 1, tile_sum(tl.where(x == value, 1.0, 0.0)))
    else:
        weight = tl.where(kind == COUNTS, 1.0, weight)
        store_sums_above(sums, x, weight, base, low, high, BITS)


@triton.jit
def _narrow(
    state, sums, tiles, vocab_size, top_p, least, top, inverse, inverse_temperature,
    BITS: tl.constexpr,
):  # fmt: skip
    """Stores what the row does after a step that found sums above pivots."""
    kind, base, low, high = _load_state(state)
    bound = tl.load(state + BOUND, cache_modifier=".cg")
    above = tl.load(state + ABOVE, cache_modifier=".cg")
    low, high, bound, above = narrowed(sums, tiles, base, low, high, bound, above, top_p)
    if high - low == 1:
        if (kind == COUNTS) & (top_p < 1.0):
            kind = kind * 0 + MASSES
            base, low, high, bound, above = range_of_mass(low, top, vocab_size, top_p, inverse,
                                                          BITS)  # fmt: skip
        else:
            bound = ties_kept(high, bound, above, top, inverse_temperature, BITS)
            bound = tl.where(kind == COUNTS, ALL_TIES, bound)
            high, bound = with_min_p(high, bound, top, inverse, least, BITS)
            kind = kind * 0 + DRAWS
    tl.debug_barrier()  # all threads have loaded what is stored now
    _store_state(state, kind, base, low, high, bound, above)


@triton.jit
def _draw(
    start, skew, vocab_size, tiles, sums, state, arrived, top, inverse, inverse_temperature,
    logprob_out,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr, WITH_BOUND: tl.constexpr,
):  # fmt: skip
    """The token and its log-probability; the bound of what is kept, where that is asked for."""
    value = value_of(tl.load(state + HIGH, cache_modifier=".cg").to(tl.int32), BITS)
    ties = tl.load(state + BOUND, cache_modifier=".cg")
    uniform = tl.load(state + UNIFORM, cache_modifier=".cg")
    weight = tempered(value, top, inverse_temperature).to(tl.float64)
    last = store_kept_masses(sums, tiles, ties, weight)
    tl.debug_barrier()  # other threads of this program read what it has stored
    tile, below, target, total = choose_tile(masses_of(sums), tiles, uniform, PIVOTS // 2)
    cols, x, tied = kept_of_tile(start, tile, skew, vocab_size, sums, value, ties, TILE, VEC)
    weights = tl.where(tied | (x > value), tempered(x, top, inverse_temperature), 0.0)
    token = choose_column(weights, cols, target - below)
    logit = tl.load(start + token).to(tl.float32)
    tl.store(logprob_out, (exponent(logit, top, inverse) - tl.log(total)).to(tl.float32))
    if WITH_BOUND:
        edge = tl.where(ties > 0.0, NO_COLUMN, -1)
        if last != NO_COLUMN:
            cols, _x, tied = kept_of_tile(start, last, skew, vocab_size, sums, value, ties, TILE,
                                          VEC)  # fmt: skip
            edge = tl.max(tl.max(tl.where(tied, cols, -1), axis=1), axis=0)
        tl.store(state + VALUE, value.to(tl.float64))
        tl.store(state + EDGE, edge.to(tl.float64))
        tl.store(state + TOTAL, total)
    tl.store(state + TOKEN, token.to(tl.float64))
    tl.store(state + LOW, arrived.to(tl.float64))
    tl.store(state + KIND, DONE)


# ---- device: the kernel ----------------------------------------------------------------------


@triton.jit(
    do_not_specialize=["row_stride", "vocab_size", "tiles", "tiles_per_split", "splits", "steps",
                       "top_k"],
    do_not_specialize_on_alignment=["logits"],
)  # fmt: skip
def select_kernel(
    logits, row_stride, vocab_size, tiles, tiles_per_split, splits, steps, uniforms,
    inverse_high, inverse_low, top_k, top_p_high, top_p_low, least_high, least_low, max_out,
    sums, state, token_out, logprob_out,
    TILE: tl.constexpr, VEC: tl.constexpr, BITS: tl.constexpr, WITH_BOUND: tl.constexpr,
):  # fmt: skip
    """All steps of the rows that have no token."""
    row = (tl.program_id(0) // splits).to(tl.int64)
    word = token_out + row
    state += row * FIELDS
    if turns.is_open(word):
        start = logits + row * row_stride
        skew = (start.to(tl.int64) % 16 * VEC // 16).to(tl.int32)
        sums += row * tiles * PIVOTS
        zero = (row * 0).to(tl.float64)
        inverse = zero + inverse_high + inverse_low
        top_p = zero + top_p_high + top_p_low
        least = zero + least_high + least_low
        top = tl.load(max_out + row)
        kind = splits * 0
        while kind != DONE:
            number = turns.draw_number(word)
            step = number // splits
            if step > 0:
                turns.wait_for(word, step)
                kind, base, low, high = _load_state(state)
            else:
                kind, base, low, high = _first_state(state, number, vocab_size, top_k, top_p, least,
                                                     top, tl.load(uniforms + row), inverse,
                                                     BITS)  # fmt: skip
            if kind != DONE:
                first = number % splits * tiles_per_split
                for tile in range(first, tl.minimum(first + tiles_per_split, tiles)):
                    _store_sums(start, tile, skew, vocab_size, sums + tile * PIVOTS, kind, base,
                                low, high, top, inverse_high, TILE, VEC, BITS)  # fmt: skip
            arrived = turns.arrive(word)
            if kind == DONE:
                if arrived == low + splits - 1:  # nobody looks at the word any more
                    token = tl.load(state + TOKEN, cache_modifier=".cg")
                    tl.store(word, token.to(tl.int64))
            elif arrived == (step + 1) * splits - 1:
                if kind == DRAWS:
                    _draw(start, skew, vocab_size, tiles, sums, state, arrived + 1, top, inverse,
                          inverse_high, logprob_out + row, TILE, VEC, BITS,
                          WITH_BOUND)  # fmt: skip
                else:
                    _narrow(state, sums, tiles, vocab_size, top_p, least, top, inverse,
                            inverse_high, BITS)  # fmt: skip
                turns.publish(word, tl.where(kind == DRAWS, steps - step, 1))
    elif WITH_BOUND & (tl.program_id(0) % splits == 0):
        tl.store(state + TOTAL, -1.0)


# ---- host ------------------------------------------------------------------------------------


def steps_of(cuts: Cuts, vocab_size: int, dtype: torch.dtype) -> int:
    """Most steps of a row.

    They find 4 bits of a cut each; one draws.
    """
    searched = (0 < cuts.top_k < vocab_size) + (cuts.top_p < 1)
    return -(-CODE_BITS[dtype] // 4) * searched + 1


def search(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    cuts: Cuts,
    vocab_size: int,
    split: RowSplit,
    max_logit: torch.Tensor,
    token: torch.Tensor,
    logprob: torch.Tensor,
    bound: bool = False,
) -> torch.Tensor:
    """Draw for rows whose token is -1, in one launch.

    Args:
        uniforms: [B] float64, contiguous.
        max_logit, token, logprob: as `sample_logits` returns them, contiguous; the latter two are
            written.
        bound: whether what is kept is asked for.

    Returns:
        f64 [B, FIELDS], with VALUE, EDGE and TOTAL where they are asked for.
    """
    rows, steps = logits.shape[0], steps_of(cuts, vocab_size, logits.dtype)

    def new(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.empty((rows, *shape), dtype=dtype, device=logits.device)

    sums = new(split.tiles, PIVOTS.value, dtype=torch.float32)
    state = new(FIELDS.value)
    select_kernel[(rows * split.splits,)](
        logits, logits.stride(0), vocab_size, split.tiles, split.tiles_per_split,
        split.splits, steps, uniforms, *Scalars.of(cuts), max_logit, sums, state, token, logprob,
        TILE=TILE, VEC=16 // logits.element_size(), BITS=CODE_BITS[logits.dtype],
        WITH_BOUND=bound, **LAUNCH,
    )  # fmt: skip
    return state
