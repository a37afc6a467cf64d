"""The operators' definitions in plain torch.

They are in float64 where numbers are computed: slow, and short enough to check by eye. Tests
compare every backend with these, and they stand in where a backend is missing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steer_kernels._memory import refuse_shared

Stats = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Sampled = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def logit_stats(
    logits: Tensor,
    k: int = 8,
    vocab_size: int | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Stats:
    """The definition of `steer_kernels.logit_stats`; see there for the contract.

    Args:
        logits: [B, V], any floating-point dtype.
        k: number of largest logits to return.
        vocab_size: columns that count; all by default.
        out_dtype: dtype of the four floating-point outputs.

    Returns:
        max_logit [B], lse [B], entropy [B] in nats, topk_logits [B, k], topk_ids [B, k] int64,
        valid [B] bool.
    """
    x = logits[:, :vocab_size].double() + 0.0  # -0.0 + 0.0 is 0.0: both zeros sort as equals
    m = x.amax(-1, keepdim=True)  # NaN if there is a NaN
    valid = m > -torch.inf
    d = torch.where(x == m, 0.0, x - m)  # the maximum is at 0, even where it is +inf
    e = d.exp()
    s = e.sum(-1, keepdim=True)
    t = torch.where(e > 0, d * e, 0.0).sum(-1, keepdim=True)  # 0 * inf is 0 here
    ids = x.sort(stable=True, dim=-1, descending=True).indices[:, :k]  # stable: ids ascend in ties

    floats = (m, m + s.log(), s.log() - t / s, x.gather(-1, ids))
    m, lse, h, top = (torch.where(valid, f, torch.nan).to(out_dtype) for f in floats)
    ids = torch.where(valid, ids, torch.arange(k, device=x.device))
    return m[:, 0], lse[:, 0], h[:, 0], top, ids, valid[:, 0]


def kept(x: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which elements the cuts of `sample_logits` keep.

    Of valid float64 rows [B, V]; bool [B, V].
    """
    x, ids = x.sort(stable=True, dim=-1, descending=True)
    log_weight = torch.where(x == x[:, :1], 0.0, (x - x[:, :1]) / temperature)
    keep = torch.ones_like(x, dtype=torch.bool)
    if 0 < top_k < x.shape[1]:
        keep &= x >= x[:, top_k - 1 : top_k]
    if top_p < 1:
        weight = torch.where(keep, log_weight.exp(), 0.0)
        through = weight.cumsum(-1)
        keep &= torch.nn.functional.pad(through[:, :-1], (1, 0)) < top_p * through[:, -1:]
    if min_p > 0:
        keep &= log_weight >= math.log(min_p)
    return torch.empty_like(keep).scatter_(-1, ids, keep)


def exponents(x: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Logarithms of a row's weights, not normalised.

    Of float64 rows [B, V]: 0 at the maximum, -inf where cut. At a temperature of 0 they are those
    of the raw softmax.
    """
    m = x.amax(-1, keepdim=True)
    d = torch.where(x == m, 0.0, (x - m) / (temperature or 1.0))
    if temperature == 0:
        return d
    return d.where(kept(x, temperature, top_k, top_p, min_p), -torch.inf)


def found(weight: Tensor, uniform: Tensor) -> Tensor:
    """The first column whose running sum exceeds a share.

    Of non-negative float64 weights [B, V] and shares [B] of their sum in [0, 1); int64 [B].
    """
    through = weight.cumsum(-1)
    target = uniform[:, None] * through[:, -1:]
    return (through > target).int().argmax(-1)  # the first; there is one, as uniform < 1


def draw(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[Tensor, Tensor]:
    """Draw a token and its log-probability for each row.

    Token [B] int64 and log-probability [B] float64, as `sample_logits` defines them.
    """
    x = logits.double() + 0.0
    m = x.amax(-1, keepdim=True)
    valid = (m > -torch.inf)[:, 0]
    d = exponents(x, temperature, top_k, top_p, min_p)
    token = (x == m).int().argmax(-1) if temperature == 0 else found(d.exp(), uniform.double())
    logprob = d.gather(-1, token[:, None])[:, 0] - d.logsumexp(-1)
    return torch.where(valid, token, 0), torch.where(valid, logprob, torch.nan)


def sample_logits(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Sampled:
    """The definition of `steer_kernels.sample_logits`; see there for the contract.

    Returns:
        What `logit_stats` returns, then token [B] int64 and logprob [B] of `out_dtype`.
    """
    stats = logit_stats(logits, k, vocab_size, out_dtype)
    token, logprob = draw(logits[:, :vocab_size], uniform, temperature, top_k, top_p, min_p)
    return (*stats, token, logprob.to(out_dtype))


def verify(log_p: Tensor, log_q: Tensor, drafts: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Accept drafts, or draw from what p has above q.

    Args:
        log_p, log_q: [B, V] float64 log-probabilities, -inf where cut.
        drafts: [B] int64 in 0..V-1.
        uniform: [B] float64 in [0, 1).

    Returns:
        token [B] int64, and whether it is the accepted draft [B] bool.
    """
    p, q = (log.gather(-1, drafts[:, None])[:, 0] for log in (log_p, log_q))
    ratio = torch.where(q > -torch.inf, (p - q).exp().clamp(max=1.0), (p > -torch.inf).double())
    rest = (log_p.exp() - log_q.exp()).clamp(min=0.0)
    rest = rest.where(rest.sum(-1, keepdim=True) > 0, log_p.exp())
    again = ((uniform - ratio) / (1.0 - ratio)).clamp(0.0, 1.0 - 2.0**-53)
    accepted = uniform < ratio
    return torch.where(accepted, drafts, found(rest, again)), accepted


def accept_drafts(
    logits: Tensor,
    drafts: Tensor,
    uniform: Tensor,
    draft_logits: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The definition of `steer_kernels.accept_drafts`; see there for the contract.

    Returns:
        [B, 6 + 2 k + 2] float64, of numbers that are rounded to `out_dtype` where they are no ids.
    """
    vocab = logits.shape[1] if vocab_size is None else vocab_size
    cuts = (temperature, top_k, top_p, min_p)
    *stats, topk, ids, valid = logit_stats(logits, k, vocab, out_dtype)
    token, _ = draw(logits[:, :vocab], uniform, *cuts)
    accepted, drafted, at = token == drafts, drafts >= 0, drafts.clamp(min=0)
    d = exponents(logits[:, :vocab].double() + 0.0, *cuts)
    log_p = d - d.logsumexp(-1, keepdim=True)
    if draft_logits is not None and temperature > 0:
        y = draft_logits[:, :vocab].double() + 0.0
        e = exponents(y, *cuts)
        log_q = e - e.logsumexp(-1, keepdim=True)  # as log_p: equal where the logits are
        judged, passed = verify(log_p, log_q, at, uniform.double())
        token, accepted = torch.where(drafted, judged, token), drafted & passed
        valid = valid & (~drafted | (y.amax(-1) > -torch.inf))
    logprob, draft_logprob = (
        log_p.gather(-1, column[:, None])[:, 0].to(out_dtype) for column in (token, at)
    )
    floats = [f.double()[:, None] for f in (*stats, logprob)]
    columns = [token[:, None], valid[:, None], *floats, topk.double(), ids]
    columns += [draft_logprob.double().where(drafted, torch.nan)[:, None], accepted[:, None]]
    none = [0.0, 0.0, *[math.nan] * (4 + k), *range(k), math.nan, 0.0]
    unsound = torch.tensor(none, dtype=torch.float64, device=logits.device)
    return torch.where(valid[:, None], torch.cat([c.double() for c in columns], 1), unsound)


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
    split = (last & starts_half != 0) & (before & (ends_half | holds) != 0)
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


def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    scale: float | None = None,
    window: int | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Softmax attention in float64, one query at a time.

    Of one row at a time; see `ops.decode_attention`. Like the kernel it never looks at a key that
    the query does not read.
    """
    batch, heads, queries, size = query.shape
    group, width = heads // keys.shape[1], keys.shape[2]
    scale = 1.0 / math.sqrt(size) if scale is None else scale
    for b, start in enumerate(starts.tolist()):
        if not 0 <= start <= (2**63 - 1) // 4:
            raise ValueError(
                f"starts[{b}] is {start}, which is no position of a query: positions count from 0"
            )
    out = query.new_zeros(batch, queries, heads, values.shape[3], dtype=torch.float64)
    for b, start in enumerate(starts.tolist()):
        for i in range(queries):
            at = start + i
            read = slice(0 if window is None else max(0, at - window + 1), min(at + 1, width))
            for h in range(heads if read.start < read.stop else 0):
                k, v = keys[b, h // group, read].double(), values[b, h // group, read].double()
                scores = (k @ query[b, h, i].double()) * scale
                if not scores.eq(-math.inf).all():
                    out[b, i, h] = scores.softmax(0) @ v
    return out.to(out_dtype or query.dtype)


def decode_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """x weight^T + bias in float64; see `ops.decode_linear`."""
    out = x.double() @ weight.double().T
    return (out if bias is None else out + bias.double()).to(out_dtype or x.dtype)


def rms_norm(
    x: Tensor, weight: Tensor, epsilon: float, out_dtype: torch.dtype | None = None
) -> Tensor:
    """weight x / sqrt(mean(x^2) + epsilon) in float64; see `ops.rms_norm`."""
    y = x.double()
    y = y * (y.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (weight.double() * y).to(out_dtype or x.dtype).contiguous()
