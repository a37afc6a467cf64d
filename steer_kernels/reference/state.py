"""In-place writes: a cache, and the state of answers."""

from __future__ import annotations

import torch
from torch import Tensor

from steer_kernels._memory import refuse_shared


def kv_append_(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    starts: Tensor,
    counts: Tensor,
) -> None:
    """The definition of `steer_kernels.kv_append_`; see there for the contract."""
    entries = list(zip(rows.tolist(), starts.tolist(), counts.tolist(), strict=True))
    written: set[tuple[int, int]] = set()
    for b, (row, start, count) in enumerate(entries):
        _require(0 <= row < k_cache.shape[0], f"rows[{b}] is {row}: not a row of the cache")
        _require(0 <= start <= k_cache.shape[2], f"starts[{b}] is {start}: not in the cache")
        _require(0 <= count <= k.shape[2], f"counts[{b}] is {count}: more than k holds")
        _require(start + count <= k_cache.shape[2], f"counts[{b}] is {count}: they exceed a row")
        positions = {(row, position) for position in range(start, start + count)}
        _require(not positions & written, f"rows[{b}] is {row}: both would write a position of it")
        written |= positions
    touched: list[tuple[str, Tensor]] = []
    read = [("rows", rows), ("starts", starts), ("counts", counts)]
    for b, (row, start, count) in enumerate(entries):
        place = slice(start, start + count)
        touched += [("k_cache", k_cache[row, :, place]), ("v_cache", v_cache[row, :, place])]
        read += [("k", k[b, :, :count]), ("v", v[b, :, :count])]
    refuse_shared(touched, read)
    for b, (row, start, count) in enumerate(entries):
        k_cache[row, :, start : start + count] = k[b, :, :count]
        v_cache[row, :, start : start + count] = v[b, :, :count]


def step_update_(
    transcript: Tensor,
    length: Tensor,
    step_start: Tensor,
    score_sum: Tensor,
    score_count: Tensor,
    flag: Tensor,
    limit: Tensor,
    token: Tensor,
    score: Tensor,
    token_class: Tensor,
    active: Tensor | None = None,
    max_step: int = 512,
) -> None:
    """The definition of `steer_kernels.step_update_`.

    See there for the contract and the bits. Here over the whole batch at once: what holds for a row
    is a mask.
    """
    closed, ended, full, said = 1, 2, 4, 8
    holds, starts_half, ends_half, says, counts, eos = 1, 2, 4, 8, 16, 32
    open_rows = flag & (ended | full) == 0
    if active is not None:
        open_rows = open_rows & active
    vocab, capacity = token_class.shape[0], transcript.shape[1]
    for name, value, least, most in (
        ("token", token, 0, vocab - 1),
        ("length", length, 0, capacity),
        ("step_start", step_start, 0, length),
        ("limit", limit, 0, capacity),
    ):
        bad = open_rows & ((value < least) | (value > most))
        for row in bad.nonzero()[:, 0].tolist():
            raise ValueError(f"{name}[{row}] must be in its range, got {int(value[row])}")
    room = open_rows & (length < limit)
    flag[open_rows & ~room] |= full

    at = room.nonzero()[:, 0]  # rows that take their token
    place, opens = length[at], flag[at] & closed != 0
    start = torch.where(opens, place, step_start[at])
    last = token_class[token[at]]
    id_before = transcript[at, (place - 1).clamp(min=0)]
    known = (place > start) & (id_before >= 0) & (id_before < vocab)
    before = torch.where(known, token_class[id_before.clamp(0, vocab - 1)], 0)
    has_said = (~opens & (flag[at] & said != 0)) | (last & says != 0)
    split = (last & starts_half != 0) & (before & ends_half != 0)
    ends = last & eos != 0
    closes = ends | (((last & holds != 0) | split) & has_said) | (place + 1 - start >= max_step)
    fills = ~ends & (place + 1 >= limit[at])

    scored = last & counts != 0
    old_sum = torch.where(opens, 0.0, score_sum[at])
    transcript[at, place] = token[at]
    length[at] = place + 1
    step_start[at] = start
    score_sum[at] = torch.where(scored, old_sum + score[at].double(), old_sum)
    score_count[at] = torch.where(opens, 0, score_count[at]) + scored
    flag[at] = (closes * closed + ends * ended + fills * full + has_said * said).to(flag.dtype)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)
