"""Exact top-k lists for Triton kernels.

They are ordered by value descending, then by column ascending.

Mathematics  An element is an integer key: the bits of its value, made to sort like the number, over
             the complement of its column. No two keys are equal, so the order is total, and ties
             are decided by the column. -0.0 counts as +0.0.
Movement     A list of k keys lives in registers, unordered. Inserting takes the highest of the keys
             offered while it exceeds the lowest of the list, and puts it in that one's place: k
             rounds for a first tile, few or none for a later one. Ranks are counted at the end.
Bytes        What the callers load and store: 8 a list slot.
Sync         Inside a program only, by Triton's reductions.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST_KEY = tl.constexpr(-(2**63))  # below every key: no element
HIGHEST_KEY = tl.constexpr(2**63 - 1)  # fills the list slots beyond k and is never displaced
LOWEST_SHORT_KEY = tl.constexpr(-(2**31))
COLUMN_MASK = tl.constexpr(2**31 - 1)
MERGE_KEYS = tl.constexpr(1024)  # candidates looked at together when lists are merged

# ---- keys ------------------------------------------------------------------------------------


@triton.jit
def ordered_bits(x):
    """fp32 to an int32 that sorts like the number."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _pack(x, cols):
    """int64 keys of fp32 values and int32 columns."""
    return (ordered_bits(x).to(tl.int64) << 32) | (cols ^ COLUMN_MASK).to(tl.int64)


@triton.jit
def unpack(keys):
    bits = (keys >> 32).to(tl.int32)
    x = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)
    return x, (keys & COLUMN_MASK) ^ COLUMN_MASK


@triton.jit
def _pack_short(x, cols, dtype: tl.constexpr):
    """int32 keys of 16-bit values and columns of a tile: half the registers and half the work."""
    bits = tl.where(x == 0.0, 0.0, x).to(dtype).to(tl.int16, bitcast=True).to(tl.int32) << 16
    return (tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits) & -65536) | (cols ^ 0xFFFF)


@triton.jit
def _widen(key, first, dtype: tl.constexpr):
    """The int64 key of a short key from the tile that begins at column `first`."""
    bits = (tl.where(key < 0, key ^ 0x7FFFFFFF, key) >> 16).to(tl.int16)
    x = bits.to(dtype, bitcast=True).to(tl.float32)
    wide = _pack(x, first + ((key & 0xFFFF) ^ 0xFFFF))
    return tl.where(key == LOWEST_SHORT_KEY, LOWEST_KEY, wide)


# ---- lists -----------------------------------------------------------------------------------


@triton.jit
def empty_list(k, K: tl.constexpr):
    """A list of k empty slots.

    Each is different, and below every key.
    """
    slot = tl.arange(0, K)
    return tl.where(slot < k, slot.to(tl.int64) + LOWEST_KEY, HIGHEST_KEY)


@triton.jit
def kth_bits(best):
    """Ordered bits of the k-th value so far.

    Below those of any number while a slot is empty.
    """
    return (tl.min(best, axis=0) >> 32).to(tl.int32)


@triton.jit
def _insert(best, keys, first, dtype: tl.constexpr):
    SHORT: tl.constexpr = dtype != tl.float32
    floor = tl.min(best, axis=0)
    raw = tl.max(keys)
    top = _widen(raw, first, dtype) if SHORT else raw
    while top > floor:
        best = tl.where(best == floor, top, best)
        floor = tl.min(best, axis=0)
        keys = tl.where(keys == raw, LOWEST_SHORT_KEY if SHORT else LOWEST_KEY, keys)
        raw = tl.max(keys)
        top = _widen(raw, first, dtype) if SHORT else raw
    return best


@triton.jit
def insert_tile(best, x, cols, first, vocab_size, dtype: tl.constexpr):
    """Insert a tile's fp32 values `x` into the list.

    They are exact in `dtype`, and of `cols` in the tile that begins at `first`. Columns from
    `vocab_size` on are no elements. A tile has at most 65536 columns.
    """
    real = cols < vocab_size
    if dtype == tl.float32:
        keys = tl.where(real, _pack(x, cols), LOWEST_KEY)
    else:
        keys = tl.where(real, _pack_short(x, cols - first, dtype), LOWEST_SHORT_KEY)
    return _insert(best, keys, first, dtype)


@triton.jit
def merge_lists(lists, count, k, K: tl.constexpr):
    """Make one list from other programs' keys.

    There are `count` of them, which those have stored; they are read past L1.
    """
    best = empty_list(k, K)
    for first in range(0, count, MERGE_KEYS):
        i = first + tl.arange(0, MERGE_KEYS)
        keys = tl.load(lists + i, mask=i < count, other=LOWEST_KEY, cache_modifier=".cg")
        filled = (keys >= LOWEST_KEY + K) & (keys != HIGHEST_KEY)
        best = _insert(best, tl.where(filled, keys, LOWEST_KEY), 0, tl.float32)
    return best


@triton.jit
def first_column(best, k, K: tl.constexpr):
    """The column of the largest element of a list."""
    keys = tl.where(tl.arange(0, K) < k, best, LOWEST_KEY)
    return (tl.max(keys, axis=0) & COLUMN_MASK) ^ COLUMN_MASK


@triton.jit
def store_ordered(values_out, ids_out, best, valid, k, length, K: tl.constexpr):
    """Store the first k values and columns, in order.

    The list is one of `length`. NaN and the columns 0 to k-1 where not `valid`.
    """
    slot = tl.arange(0, K)
    real = slot < length
    keys = tl.where(real, best, LOWEST_KEY)
    rank = tl.sum((keys[None, :] > keys[:, None]).to(tl.int32), axis=1)
    rank = tl.where(valid, rank, slot)
    stored = real & (rank < k)
    values, ids = unpack(best)
    tl.store(values_out + rank, tl.where(valid, values, float("nan")), mask=stored)
    tl.store(ids_out + rank, tl.where(valid, ids, slot.to(tl.int64)), mask=stored)
