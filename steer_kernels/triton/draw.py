"""Where the running sum of masses passes a number.

The tile, then the column in it.

Order        Masses are summed in the order of the tiles, whatever programs stored them.
Precision    float64, but for the weights of a tile's columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

from steer_kernels.triton.cuts import NO_COLUMN
from steer_kernels.triton.moments import MERGE_TILES
from steer_kernels.triton.pivots import PIVOTS
from steer_kernels.triton.tiles import load_tile


@triton.jit
def choice_so_far(tile, mass, target, chosen, last, below, running):
    """What `choose_tile` knows after some more tiles.

    The first that passes the target, the last with a mass, the mass below the former, and all mass.
    """
    through = running + tl.cumsum(mass, axis=0)
    passed = (through > target) & (mass > 0.0)
    chosen = tl.minimum(chosen, tl.min(tl.where(passed, tile, NO_COLUMN), axis=0))
    last = tl.maximum(last, tl.max(tl.where(mass > 0.0, tile, 0), axis=0))
    below = tl.maximum(below, tl.max(tl.where(through <= target, through, 0.0), axis=0))
    return chosen, last, below, running + tl.sum(mass, axis=0)


@triton.jit
def choose_tile(masses, tiles, uniform, APART: tl.constexpr = 1):
    """The token's tile, the mass below it, target and total."""
    total = uniform * 0.0
    for first in range(0, tiles, MERGE_TILES):
        tile = first + tl.arange(0, MERGE_TILES)
        mass = tl.load(masses + tile * APART, mask=tile < tiles, other=0.0, cache_modifier=".cg")
        total += tl.sum(mass, axis=0)
    target = uniform * total
    chosen = NO_COLUMN
    last = 0  # with a mass: stands in where rounding leaves the sum short
    below = total * 0.0
    running = total * 0.0
    for first in range(0, tiles, MERGE_TILES):
        tile = first + tl.arange(0, MERGE_TILES)
        mass = tl.load(masses + tile * APART, mask=tile < tiles, other=0.0, cache_modifier=".cg")
        chosen, last, below, running = choice_so_far(
            tile, mass, target, chosen, last, below, running)  # fmt: skip
    return tl.where(chosen == NO_COLUMN, last, chosen), below, target, total


@triton.jit
def choose_column(weight, cols, target):
    """The first column whose running sum exceeds the target."""
    in_group = tl.sum(weight, axis=1).to(tl.float64)
    through = tl.cumsum(in_group, axis=0)
    inside = (through - in_group)[:, None] + tl.cumsum(weight, axis=1).to(tl.float64)
    passed = (inside > target) & (weight > 0.0)
    column = tl.min(tl.min(tl.where(passed, cols, NO_COLUMN), axis=1), axis=0)
    last = tl.max(tl.max(tl.where(weight > 0.0, cols, 0), axis=1), axis=0)
    return tl.where(column == NO_COLUMN, last, column)


# ---- a row of which a cut, and some of what equals it, is kept ---------------------------------

# Of a tile's sums, float32: its mass above the cut and how many equal that; then how many do in
# tiles before it, and as a float64 the mass that is kept of it.
ABOVE = tl.constexpr(0)
TIED = tl.constexpr(1)
BEFORE = tl.constexpr(2)
KEPT = tl.constexpr(4)


@triton.jit
def masses_of(sums):
    """What is kept of the tiles, PIVOTS / 2 apart."""
    return (sums + KEPT).to(tl.pointer_type(tl.float64), bitcast=True)


@triton.jit
def store_kept_masses(sums, tiles, ties, weight):
    """Store the kept mass of each tile.

    Of those that equal the cut `ties` are kept, with a weight each.

    Returns the tile of the last tie that is kept, NO_COLUMN where all are, or none.
    """
    seen = ties * 0.0
    edge = NO_COLUMN
    for first in range(0, tiles, MERGE_TILES):
        tile = first + tl.arange(0, MERGE_TILES)
        here = tile < tiles
        at = sums + tile * PIVOTS
        above = tl.load(at + ABOVE, mask=here, other=0.0, cache_modifier=".cg").to(tl.float64)
        tied = tl.load(at + TIED, mask=here, other=0.0, cache_modifier=".cg").to(tl.float64)
        before = seen + tl.cumsum(tied, axis=0) - tied
        kept = tl.minimum(tl.maximum(ties - before, 0.0), tied)
        tl.store(masses_of(at), above + kept * weight, mask=here)
        tl.store(at + BEFORE, before.to(tl.float32), mask=here)
        ends = (before < ties) & (before + tied >= ties)
        edge = tl.minimum(edge, tl.min(tl.where(ends, tile, NO_COLUMN), axis=0))
        seen += tl.sum(tied, axis=0)
    return edge


@triton.jit
def kept_of_tile(
    start, tile, skew, vocab_size, sums, value, ties, TILE: tl.constexpr, VEC: tl.constexpr
):  # fmt: skip
    """Columns and values of a tile, and its kept ties."""
    cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
    tied = (x == value).to(tl.int32)
    in_group = tl.sum(tied, axis=1)
    before = tl.load(sums + tile * PIVOTS + BEFORE, cache_modifier=".cg").to(tl.int32)
    before += tl.cumsum(in_group, axis=0) - in_group
    order = before[:, None] + tl.cumsum(tied, axis=1) - tied
    return cols, x, (x == value) & (order < ties.to(tl.int32))
