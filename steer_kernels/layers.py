"""Layers in one kernel with their neighbours, on a GPU.

What a layer of Llama's kind does between its products takes a dozen operators and more of torch,
each a kernel that reads and writes all it works on. Here it is three. They are for engines, who
know what they pass: no operators of torch, nothing is checked, and no gradient flows. On CUDA
they are Triton's; elsewhere their definitions stand in, which are slow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from steer_kernels import reference
from steer_kernels.ops._logits import triton_kernel

LONGEST_ROW = 16384  # of what is normed


@cache
def in_one_kernel() -> bool:
    """Whether there are kernels for CUDA tensors."""
    return importlib.util.find_spec("triton") is not None


def _kernel(name: str, like: Tensor) -> Callable[..., Any] | None:
    return triton_kernel(name) if like.is_cuda else None


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The sum of two rows, and the norm of it.

        s = residual + x          out = weight s / sqrt(mean(s^2) + epsilon)

    Sums and products are in float32; s, s over its root, and out are rounded to the dtype, as by
    the layers of transformers. A row has bitwise the same values beside any others.

    Args:
        x, residual: [..., K] float32, bfloat16 or float16, contiguous; K at most `LONGEST_ROW`.
        weight: [K], in the same dtype, contiguous.
        epsilon: at least 0.

    Returns:
        s and out, as `x`.
    """
    kernel = _kernel("add_rms_norm", x) or reference.add_rms_norm
    total, normed = kernel(x, residual, weight, epsilon)
    return total, normed


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) times up.

    In float32; silu(gate) and the product are rounded to the dtype, as by transformers.

    Args:
        gate, up: of one shape and dtype (float32, bfloat16 or float16), contiguous.
    """
    out: Tensor = (_kernel("silu_mul", gate) or reference.silu_mul)(gate, up)
    return out


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
    """Rotate queries and keys; write keys and values.

    A head (a, b) of 2 h numbers becomes (a cos - b sin, b cos + a sin); each product and the sum
    are rounded to the dtype, as by transformers. Keys and values go where `kv_append_` puts them.
    An entry that does not fit is left out whole on CUDA, and nothing is read on the host.

    Args:
        q: [B, N, H, D]; k: [B, N, G, D]; v: [B, N, G, Dv]; contiguous, of one dtype, D even.
        cos, sin: [B, N, D] or [1, N, D], contiguous, in the same dtype.
        k_cache, v_cache: [R, G, C, D] and [R, G, C, Dv], contiguous, likewise.
        rows, starts, counts: int64 [B], of any stride, as `kv_append_` takes them.
        norms: weights [D] of a root mean square norm of each head of q and of k, before it is
            rotated (Qwen 3), and its `epsilon`; or None.

    Returns:
        The rotated queries [B, N, H, D].
    """
    kernel = _kernel("rope_append", q) or reference.rope_append_
    out: Tensor = kernel(q, k, v, cos, sin, k_cache, v_cache, rows, starts, counts, norms, epsilon)
    if q.is_cuda and not torch.is_inference_mode_enabled():
        increment_version((k_cache, v_cache))  # the definition has counted
    return out
