"""logit_stats, and the next token from the same read.

Temperature, top_k, top_p, min_p, or greedy.

Mathematics  As logit_stats, and per tile the mass sum exp((x - m) / temperature). The token is the
             first column at which the running sum of masses exceeds uniform * total: the tile by
             the running sum over tiles, then the column inside it. With cuts the token comes from
             the row's top-k list (cuts.py). Greedy is the head of the list.
Movement     As logit_stats; where nothing is cut, the last program loads a tile of the row again.
Bytes        As logit_stats, plus 4 a tile of masses, and one tile a row where nothing is cut.
Order        Masses are summed in the order of the tiles, so the split of a row changes nothing.
Precision    Masses of tiles, and of 16 bytes of columns, in float32; their running sums in float64.
Sync         As logit_stats: one launch, and the last program of a row draws. With cuts a second
             launch follows (select.py), in which rows that the list did not decide get their token
             and all others leave at once: which they are is known on the device only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from steer_kernels.ops._sampling import Cuts, cuts_something
from steer_kernels.reference import Sampled
from steer_kernels.triton.arguments import Scalars
from steer_kernels.triton.cuts import NO_COLUMN, draw_from_list, exponent, tempered
from steer_kernels.triton.draw import choice_so_far
from steer_kernels.triton.heuristics import (
    LAUNCH,
    TILE,
    RowSplit,
    cut_list_length,
    list_size,
)
from steer_kernels.triton.logit_stats import (
    Outputs,
    Workspace,
    device_of,
    finish_row,
    last_to_finish,
    plan,
)
from steer_kernels.triton.moments import MERGE_TILES, moments_of, powers, tile_sum
from steer_kernels.triton.select import search
from steer_kernels.triton.tiles import load_tile
from steer_kernels.triton.topk import (
    empty_list,
    first_column,
    insert_tile,
    kth_bits,
    ordered_bits,
)

UNDECIDED = tl.constexpr(-1)  # the token of a row that is left to the second launch


@triton.jit
def _store_mass(mass, power, inverse_temperature):
    """The sum of exp((x - m) / temperature), of a tile's `powers`; 0 where all are -inf."""
    tl.store(mass, tile_sum(tl.exp2(power * inverse_temperature)))


@triton.jit
def _row_masses(moments, masses, first, tiles, top, inverse):
    """Masses, relative to the row's maximum, of MERGE_TILES tiles from `first` on."""
    tile = first + tl.arange(0, MERGE_TILES)
    here = tile < tiles
    m = tl.load(moments + tile, mask=here, other=float("-inf"), cache_modifier=".cg")
    mass = tl.load(masses + tile, mask=here, other=0.0, cache_modifier=".cg")
    scaled = mass.to(tl.float64) * tl.exp(exponent(m, top, inverse))
    return tile, tl.where(mass > 0.0, scaled, 0.0)


@triton.jit
def total_mass(moments, masses, tiles, top, inverse):
    total = inverse * 0.0
    for first in range(0, tiles, MERGE_TILES):
        _tile, mass = _row_masses(moments, masses, first, tiles, top, inverse)
        total += tl.sum(mass, axis=0)
    return total


@triton.jit
def _choose_tile(moments, masses, tiles, top, inverse, uniform):
    """The tile of the token, the mass below it, the target and the total mass."""
    total = total_mass(moments, masses, tiles, top, inverse)
    target = uniform * total
    chosen = NO_COLUMN
    last = 0  # with a mass: stands in where rounding leaves the sum short
    below = total * 0.0
    running = total * 0.0
    for first in range(0, tiles, MERGE_TILES):
        tile, mass = _row_masses(moments, masses, first, tiles, top, inverse)
        chosen, last, below, running = choice_so_far(
            tile, mass, target, chosen, last, below, running)  # fmt: skip
    return tl.where(chosen == NO_COLUMN, last, chosen), below, target, total


@triton.jit
def _draw(
    start, skew, moments, masses, tiles, top, inverse, inverse_temperature, uniform, vocab_size,
    TILE: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Column and log-probability of the token of a valid row of which all is kept."""
    tile, below, target, total = _choose_tile(moments, masses, tiles, top, inverse, uniform)
    local_top = tl.load(moments + tile, cache_modifier=".cg")
    target = (target - below) / tl.exp(exponent(local_top, top, inverse))
    # First which 16 bytes, then which column of them: few registers, as little is kept per column.
    _cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
    mass = tl.sum(tempered(x, local_top, inverse_temperature), axis=1).to(tl.float64)
    through = tl.cumsum(mass, axis=0)
    group = tl.arange(0, TILE // VEC)
    at = tl.min(tl.where((through > target) & (mass > 0.0), group, NO_COLUMN), axis=0)
    if at == NO_COLUMN:  # rounding left the sum short: the last with a mass
        at = tl.max(tl.where(mass > 0.0, group, 0), axis=0)
    target -= tl.max(tl.where(group < at, through, 0.0), axis=0)

    cols = tile * TILE + at * VEC + tl.arange(0, VEC)
    x = tl.load(start + cols, mask=cols < vocab_size, other=float("-inf")).to(tl.float32)
    weight = tempered(x, local_top, inverse_temperature)
    passed = (tl.cumsum(weight, axis=0) > target) & (weight > 0.0)
    column = tl.min(tl.where(passed, cols, NO_COLUMN), axis=0)
    if column == NO_COLUMN:
        column = tl.max(tl.where(weight > 0.0, cols, 0), axis=0)
    logit = tl.load(start + column).to(tl.float32)
    return column, exponent(logit, top, inverse) - tl.log(total)


@triton.jit(
    do_not_specialize=["row_stride", "vocab_size", "k", "length", "tiles", "tiles_per_split",
                       "splits", "top_k"],
    do_not_specialize_on_alignment=["logits"],
)  # fmt: skip
def sample_logits_kernel(
    logits, row_stride, vocab_size, k, length, tiles, tiles_per_split, splits, uniforms,
    inverse_high, inverse_low, top_k, top_p_high, top_p_low, least_high, least_low,
    masses, moments, lists, arrived, max_out, lse_out, entropy_out,
    values_out, ids_out, valid_out, token_out, logprob_out,
    TILE: tl.constexpr, VEC: tl.constexpr, K: tl.constexpr, GREEDY: tl.constexpr,
    CUT: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    start = logits + row * row_stride
    skew = (start.to(tl.int64) % 16 * VEC // 16).to(tl.int32)  # elements above a 16-byte boundary
    moments += row * 3 * tiles
    masses += row * tiles
    lists += row * splits * K

    best = empty_list(length, K)
    for tile in range(split * tiles_per_split, tl.minimum((split + 1) * tiles_per_split, tiles)):
        cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
        top = tl.max(x)
        power = powers(x, top)
        total, slope = moments_of(power)
        tl.store(moments + tile, top)
        tl.store(moments + tiles + tile, total)
        tl.store(moments + 2 * tiles + tile, slope)
        # float32 has no registers for both kinds of weights at once, and the list's branches keep
        # ptxas from computing them so; 16 bits have, but not to hold a tile through those branches.
        if (not GREEDY) and VEC == 8:
            _store_mass(masses + tile, power, inverse_high)
        if ordered_bits(top) > kth_bits(best):
            best = insert_tile(best, x, cols, tile * TILE, vocab_size, logits.dtype.element_ty)
        if (not GREEDY) and VEC == 4:
            _store_mass(masses + tile, power, inverse_high)
    tl.store(lists + split * K + tl.arange(0, K), best)

    if last_to_finish(arrived + row, splits):
        top, total, best, valid = finish_row(
            moments, tiles, lists, row, splits, k, length, K, max_out, lse_out, entropy_out,
            values_out, ids_out, valid_out)  # fmt: skip
        uniform = tl.load(uniforms + row)
        inverse = uniform * 0.0 + inverse_high + inverse_low
        good = valid & (uniform >= 0.0) & (uniform < 1.0)
        tl.store(token_out + row, 0)
        tl.store(logprob_out + row, float("nan"))
        if good:
            if GREEDY:
                tl.store(token_out + row, first_column(best, length, K))
                # As bounds.py has it for a draft, to the bit.
                tl.store(logprob_out + row, (-tl.log(total.to(tl.float64))).to(tl.float32))
            elif CUT:
                row_total = total_mass(moments, masses, tiles, top, inverse)
                column, logprob, decided = draw_from_list(
                    best, length, top, inverse, row_total, vocab_size, top_k,
                    uniform * 0.0 + top_p_high + top_p_low,
                    uniform * 0.0 + least_high + least_low, uniform, K)  # fmt: skip
                tl.store(token_out + row, tl.where(decided, column, UNDECIDED).to(tl.int64))
                tl.store(logprob_out + row, logprob.to(tl.float32))
            else:
                column, logprob = _draw(
                    start, skew, moments, masses, tiles, top, inverse, inverse_high, uniform,
                    vocab_size, TILE, VEC)  # fmt: skip
                tl.store(token_out + row, column.to(tl.int64))
                tl.store(logprob_out + row, logprob.to(tl.float32))


# ---- host ------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """What `draw_rows` leaves behind."""

    stats: Outputs  # the lists are as long as was asked for
    token: torch.Tensor  # i64 [B]
    logprob: torch.Tensor  # f32 [B]
    moments: torch.Tensor  # f32 [B, 3, tiles]
    masses: torch.Tensor  # f32 [B, tiles]
    split: RowSplit
    found: torch.Tensor | None  # by `search`, where something is cut


def draw_undecided(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    cuts: Cuts,
    vocab_size: int,
    max_logit: torch.Tensor,
    token: torch.Tensor,
    logprob: torch.Tensor,
) -> None:
    """Draw for rows whose token is -1.

    Args:
        uniforms: [B] float64, contiguous.
        max_logit, token, logprob: as `sample_logits` returns them, contiguous; the latter two are
            written.
    """
    with device_of(logits):
        split = plan(logits, vocab_size)
        search(logits, uniforms, cuts, vocab_size, split, max_logit, token, logprob)


def draw_rows(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    cuts: Cuts,
    k: int,
    vocab_size: int,
    whole_lists: bool = False,
) -> Drawn:
    """Launch the kernels of `sample_logits_triton` on one row or more.

    Args:
        uniforms: [B] float64, contiguous.
        whole_lists: return the lists that decide the cuts, of which k may be a part, and the bounds
            of rows that they do not decide.
    """
    rows, device = logits.shape[0], logits.device
    cut, scalars = cuts_something(cuts, vocab_size), Scalars.of(cuts)
    length = cut_list_length(k, cuts.top_k, vocab_size) if cut else k
    k = length if whole_lists else k
    out = Outputs.empty(rows, k, device)
    token = torch.empty(rows, dtype=torch.int64, device=device)
    logprob = torch.empty(rows, dtype=torch.float32, device=device)
    split = plan(logits, vocab_size)
    workspace = Workspace.empty(rows, length, split, device)
    masses = torch.empty((rows, split.tiles), dtype=torch.float32, device=device)
    vec = 16 // logits.element_size()
    with device_of(logits):
        sample_logits_kernel[(rows * split.splits,)](
            logits, logits.stride(0), vocab_size, k, length, split.tiles, split.tiles_per_split,
            split.splits, uniforms, *scalars, masses, *workspace, *out, token, logprob,
            TILE=TILE, VEC=vec, K=list_size(length), GREEDY=cuts.temperature == 0, CUT=cut,
            **LAUNCH,
        )  # fmt: skip
        found = None
        if cut:
            found = search(logits, uniforms, cuts, vocab_size, split, out.max_logit, token, logprob,
                           whole_lists)  # fmt: skip
    return Drawn(out, token, logprob, workspace.moments, masses, split, found)


def sample_logits_triton(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    cuts: Cuts,
    k: int,
    vocab_size: int,
) -> Sampled:
    """Statistics, and a token drawn from each row.

    The six results of `logit_stats_triton`, token int64 [B] and logprob f32 [B]. The arguments are
    taken as checked, but for the values of `uniform`: a row where it is outside [0, 1) is given the
    token 0 and the log-probability NaN. A temperature of 0 is greedy. One launch, and a second one
    where something is cut.
    """
    if not logits.shape[0]:
        token = torch.empty(0, dtype=torch.int64, device=logits.device)
        logprob = torch.empty(0, dtype=torch.float32, device=logits.device)
        return (*Outputs.empty(0, k, logits.device), token, logprob)
    drawn = draw_rows(logits, uniform.double().contiguous(), cuts, k, vocab_size)
    return (*drawn.stats, drawn.token, drawn.logprob)
