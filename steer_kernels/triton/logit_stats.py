"""Confidence figures of every row, from one read.

Max logit, log-sum-exp, entropy and the exact top-k.

Mathematics  Per tile: m = max x, S = sum exp(x - m), T = sum (x - m) exp(x - m). Tiles merge by
             moving them to the common maximum M: S' = w S, T' = w (T + (m - M) S), w = exp(m - M).
             lse = M + log S, entropy = log S - T / S: a shift of the row cancels (moments.py).
             Top-k: topk.py.
Movement     A row is cut into tiles of 2048 columns, dealt to `splits` programs. A tile is read
             once, in aligned 128-bit loads, wherever the row starts (tiles.py).
Bytes        Read rows * vocab_size * itemsize; written per row 12 a tile, 8 * list size a program.
Order        A thread owns columns, not addresses; sums are kept per tile and merged in the order of
             the tiles: the bits of a row depend on its values, not on its neighbours, its alignment
             or `splits`.
Sync         One launch, and no program waits. Each adds one to its row's counter (acquire-release);
             the one that finds itself the last merges the row and puts the counter back to zero.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from steer_kernels.triton.heuristics import LAUNCH, TILE, RowSplit, list_size, split_rows
from steer_kernels.triton.moments import merge_moments, moments_of, powers
from steer_kernels.triton.tiles import load_tile
from steer_kernels.triton.topk import (
    empty_list,
    insert_tile,
    kth_bits,
    merge_lists,
    ordered_bits,
    store_ordered,
)

# ---- device: the row -------------------------------------------------------------------------


@triton.jit
def last_to_finish(arrived, splits):
    """Whether this program is the last of its row.

    The counter is then zero again.
    """
    tl.debug_barrier()  # the stores of every thread come before the release by one of them
    last = tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu") == splits - 1
    if last:
        tl.store(arrived, 0)
    return last


@triton.jit
def finish_row(
    moments, tiles, lists, row, splits, k, length, K: tl.constexpr,
    max_out, lse_out, entropy_out, values_out, ids_out, valid_out,
):  # fmt: skip
    """Merge a row's tiles and lists; store its six results.

    Returns the maximum, the sum at it, the merged list and whether the row is valid.
    """
    top, total, slope = merge_moments(moments, tiles)
    valid = (total == total) & (top > float("-inf"))  # a NaN anywhere made the total NaN
    log_total = tl.log(total)
    tl.store(max_out + row, tl.where(valid, top, float("nan")))
    tl.store(lse_out + row, tl.where(valid, top + log_total, float("nan")))
    tl.store(entropy_out + row, tl.where(valid, log_total - slope / total, float("nan")))
    tl.store(valid_out + row, valid)
    best = merge_lists(lists, splits * K, length, K)
    store_ordered(values_out + row * k, ids_out + row * k, best, valid, k, length, K)
    return top, total, best, valid


# ---- device: the kernel ----------------------------------------------------------------------


@triton.jit(
    do_not_specialize=["row_stride", "vocab_size", "k", "tiles", "tiles_per_split", "splits"],
    do_not_specialize_on_alignment=["logits"],  # one binary for all rows: one order of summation
)
def logit_stats_kernel(
    logits, row_stride, vocab_size, k, tiles, tiles_per_split, splits, moments, lists, arrived,
    max_out, lse_out, entropy_out, values_out, ids_out, valid_out,
    TILE: tl.constexpr, VEC: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    start = logits + row * row_stride
    skew = (start.to(tl.int64) % 16 * VEC // 16).to(tl.int32)  # elements above a 16-byte boundary
    moments += row * 3 * tiles
    lists += row * splits * K

    best = empty_list(k, K)
    for tile in range(split * tiles_per_split, tl.minimum((split + 1) * tiles_per_split, tiles)):
        cols, x = load_tile(start, tile, skew, vocab_size, TILE, VEC)
        top = tl.max(x)
        total, slope = moments_of(powers(x, top))
        tl.store(moments + tile, top)
        tl.store(moments + tiles + tile, total)
        tl.store(moments + 2 * tiles + tile, slope)
        # Tiles ascend and the higher column loses a tie: what does not exceed the k-th is out.
        if ordered_bits(top) > kth_bits(best):
            best = insert_tile(best, x, cols, tile * TILE, vocab_size, logits.dtype.element_ty)
    tl.store(lists + split * K + tl.arange(0, K), best)

    if last_to_finish(arrived + row, splits):
        finish_row(moments, tiles, lists, row, splits, k, k, K, max_out, lse_out, entropy_out,
                   values_out, ids_out, valid_out)  # fmt: skip


# ---- host: launch, raw call, public function --------------------------------------------------


class Outputs(NamedTuple):
    """What `logit_stats_into` fills.

    All are contiguous and on the device of the logits.
    """

    max_logit: torch.Tensor  # f32 [B]
    lse: torch.Tensor  # f32 [B]
    entropy: torch.Tensor  # f32 [B]
    topk_logits: torch.Tensor  # f32 [B, k]
    topk_ids: torch.Tensor  # i64 [B, k]
    valid: torch.Tensor  # bool [B]

    @classmethod
    def empty(cls, rows: int, k: int, device: torch.device) -> Outputs:
        def new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return cls(new(rows), new(rows), new(rows), new(rows, k), new(rows, k, dtype=torch.int64),
                   new(rows, dtype=torch.bool))  # fmt: skip


class Workspace(NamedTuple):
    """Scratch of one call.

    The kernel leaves `arrived` at zero, so calls that follow one another on a stream may share a
    workspace; calls on different streams may not.
    """

    moments: torch.Tensor  # f32 [B, 3, tiles]
    lists: torch.Tensor  # i64 [B, splits, list size]
    arrived: torch.Tensor  # i32 [B], zero

    @classmethod
    def empty(cls, rows: int, k: int, cut: RowSplit, device: torch.device) -> Workspace:
        return cls(
            torch.empty((rows, 3, cut.tiles), dtype=torch.float32, device=device),
            torch.empty((rows, cut.splits, list_size(k)), dtype=torch.int64, device=device),
            torch.zeros(rows, dtype=torch.int32, device=device),
        )


@contextlib.contextmanager
def device_of(logits: torch.Tensor) -> Iterator[None]:
    """Launch on the tensor's GPU, or in the interpreter.

    For the interpreter numpy is kept quiet about NaN and infinity.
    """
    if logits.is_cuda:
        with torch.cuda.device(logits.device):
            yield
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield


def plan(logits: torch.Tensor, vocab_size: int) -> RowSplit:
    """How the rows of `logits` are cut on their device."""
    sm_count = 1
    if logits.is_cuda:
        sm_count = torch.cuda.get_device_properties(logits.device).multi_processor_count
    return split_rows(logits.shape[0], vocab_size, sm_count)


def logit_stats_into(
    logits: torch.Tensor, k: int, vocab_size: int, out: Outputs, cut: RowSplit, workspace: Workspace
) -> None:
    """Launch once, and allocate nothing.

    There is a row, and `workspace` was made for `cut`.
    """
    with device_of(logits):
        logit_stats_kernel[(logits.shape[0] * cut.splits,)](
            logits, logits.stride(0), vocab_size, k, cut.tiles, cut.tiles_per_split, cut.splits,
            *workspace, *out,
            TILE=TILE, VEC=16 // logits.element_size(), K=list_size(k), **LAUNCH,
        )  # fmt: skip


def logit_stats_triton(logits: torch.Tensor, k: int, vocab_size: int) -> Outputs:
    """Statistics of each row of raw logits, from one read.

    Over its first `vocab_size` columns. The arguments are taken as checked.

    Args:
        logits: [B, V], fp32, bf16 or fp16, with last stride 1, any row stride and any storage
            offset. On a GPU, or on the CPU under TRITON_INTERPRET=1.
        k: length of the top-k lists, 1 to 64 and at most `vocab_size`.
        vocab_size: real columns, at most V; what lies beyond never wins and never counts.

    Returns:
        max_logit, lse and entropy (nats), f32 [B]; topk_logits f32 and topk_ids i64 [B, k], by
        value descending, then id ascending (-0.0 equals, and is returned as, +0.0); valid, bool
        [B], False where a real column is NaN or none is above -inf. A row that is not valid has NaN
        and the ids 0 to k-1.

    Besides the kernel a call enqueues the zeroing of B counters; `logit_stats_into`, with a
    workspace that the caller keeps, enqueues the kernel alone. A row that starts off 16 bytes costs
    a second load instruction for each vector (served by L1) and a shift, no second read of memory.
    Not tuned yet: splits, top-k rounds and merge are chosen for correctness.
    """
    out = Outputs.empty(logits.shape[0], k, logits.device)
    if logits.shape[0]:
        cut = plan(logits, vocab_size)
        workspace = Workspace.empty(logits.shape[0], k, cut, logits.device)
        logit_stats_into(logits, k, vocab_size, out, cut, workspace)
    return out
