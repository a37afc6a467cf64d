"""The operators' definitions in float64 torch: slow, and short enough to check by eye.

Tests compare every backend with these, and they stand in where a backend is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor

Stats = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


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
