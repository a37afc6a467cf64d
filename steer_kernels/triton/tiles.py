"""How a tile gets into registers as float32.

Wherever the row starts.

Movement     A tile is TILE columns, [TILE / VEC, VEC], a thread owning whole groups of VEC (16
             bytes). Loads are of 128 bits and aligned, also where the row starts off 16 bytes: the
             words are then shifted in registers. Tiles at a ragged edge (the last of a row, the
             first if it starts off 16 bytes) are loaded by element, under a mask.
Bytes        Each column once from memory; where the row starts off 16 bytes, twice from L1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _funnel(low, high, bits):
    """The 64 bits that start `bits` (0 to 63) above the bottom of high:low."""
    return (low >> bits) | ((high << 1) << (63 - bits))


@triton.jit
def _load_wide(start, skew, GROUPS: tl.constexpr, VEC: tl.constexpr):
    """VEC columns (16 bytes) per group from `start`, which lies `skew` elements above 16 bytes."""
    base = (start - skew).to(tl.pointer_type(tl.uint64), bitcast=True)
    pairs = tl.arange(0, GROUPS)[:, None] * 2 + tl.arange(0, 2)[None, :]
    words = tl.multiple_of(base, 16) + pairs
    w0, w1 = tl.split(tl.load(words))
    if skew != 0:
        w2, w3 = tl.split(tl.load(words + 2))  # the neighbour's vector: from L1, not from memory
        shift = skew * (128 // VEC)
        bits = (shift & 63).to(tl.uint64)
        upper = shift >= 64
        a, b, c = tl.where(upper, w1, w0), tl.where(upper, w2, w1), tl.where(upper, w3, w2)
        w0, w1 = _funnel(a, b, bits), _funnel(b, c, bits)
    pair = tl.join(w0, w1)
    x = tl.join(pair.to(tl.uint32), (pair >> 32).to(tl.uint32))
    if VEC == 8:
        x = tl.join(x.to(tl.uint16), (x >> 16).to(tl.uint16))
    return tl.reshape(x, (GROUPS, VEC)).to(start.dtype.element_ty, bitcast=True).to(tl.float32)


@triton.jit
def _load_two(row, at, apart: tl.constexpr, vocab_size):
    """The columns `at` and `at + apart`, -inf beyond the vocabulary: [GROUPS, 2]."""
    low = tl.load(row + at, mask=at < vocab_size, other=float("-inf"))
    high = tl.load(row + at + apart, mask=at + apart < vocab_size, other=float("-inf"))
    return tl.join(low, high)


@triton.jit
def _load_ragged(row, first, vocab_size, GROUPS: tl.constexpr, VEC: tl.constexpr):
    """The columns from `first` on, under a mask, joined as _load_wide joins them.

    So both have one layout, a thread owning whole groups. A load of [GROUPS, VEC] has another, and
    where the two meet, wide values too would go through shared memory.
    """
    at = first + tl.arange(0, GROUPS) * VEC
    if VEC == 8:
        even = tl.join(_load_two(row, at, 4, vocab_size), _load_two(row, at + 2, 4, vocab_size))
        odd = tl.join(_load_two(row, at + 1, 4, vocab_size), _load_two(row, at + 3, 4, vocab_size))
        x = tl.join(even, odd)
    else:
        x = tl.join(_load_two(row, at, 2, vocab_size), _load_two(row, at + 1, 2, vocab_size))
    return tl.reshape(x, (GROUPS, VEC)).to(tl.float32)


@triton.jit
def load_tile(row, tile, skew, vocab_size, TILE: tl.constexpr, VEC: tl.constexpr):
    """Columns and values of a tile, -inf beyond the vocabulary.

    Nothing outside the row is read.
    """
    GROUPS: tl.constexpr = TILE // VEC
    cols = tile * TILE + tl.arange(0, GROUPS)[:, None] * VEC + tl.arange(0, VEC)[None, :]
    below = (tile > 0) | (skew == 0)
    above = (tile + 1) * TILE + tl.where(skew == 0, 0, VEC - skew) <= vocab_size
    if below & above:
        x = _load_wide(row + tile * TILE, skew, GROUPS, VEC)
    else:
        x = _load_ragged(row, tile * TILE, vocab_size, GROUPS, VEC)
    return cols, x
