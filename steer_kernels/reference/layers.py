"""Layers of a pass over few tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
