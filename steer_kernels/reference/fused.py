"""Layers in one kernel with their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from steer_kernels.reference.layers import rms_norm
from steer_kernels.reference.state import kv_append_


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    epsilon: float,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """residual + x, rounded, and the `rms_norm` of it."""
    total = (residual.double() + x.double()).to(x.dtype)
    return total, rms_norm(total, weight, epsilon, out_dtype)


def silu_mul(gate: Tensor, up: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """gate / (1 + exp(-gate)) times up, in float64."""
    g = gate.double()
    return (g / (1.0 + (-g).exp()) * up.double()).to(out_dtype or gate.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads [B, N, H, D] turned by their angles."""
    a, b = x.double().chunk(2, -1)
    cos, sin = cos.double()[:, :, None], sin.double()[:, :, None]
    return x.double() * cos + torch.cat([-b, a], -1) * sin


def rope_append_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: Tensor,
    starts: Tensor,
    counts: Tensor,
    norms: tuple[Tensor, Tensor] | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """Rotated queries; keys and values go to the cache.

    See `steer_kernels.layers.rope_append_`.
    """
    if norms is not None:
        q, k = (rms_norm(x, w, epsilon) for x, w in zip((q, k), norms, strict=True))
    keys = rotate(k, cos, sin).to(k.dtype)
    kv_append_(k_cache, v_cache, keys.transpose(1, 2), v.transpose(1, 2), rows, starts, counts)
    return rotate(q, cos, sin).to(q.dtype)
