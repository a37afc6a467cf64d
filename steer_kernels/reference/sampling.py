"""What logits tell, and which token is drawn from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
