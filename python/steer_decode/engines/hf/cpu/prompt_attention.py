"""Attention of a part of a prompt, on a CPU.

It goes to all that was read before, and causally to the part itself. SDPA wants a mask where the
queries are the last of the keys, and transformers then copies keys and values once for each head of
a group. Here the part's square, which needs no mask, and the rectangle of what lies before it are
two calls of the kernel behind SDPA; each returns with its output the logarithm of the sum of its
weights, which is what it takes to merge them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def part_attention(
    query: Tensor, keys: Tensor, values: Tensor, start: int, scale: float | None = None
) -> Tensor:
    """Attention of queries that follow one another.

    The N queries stand at the positions ``start``, ``start + 1`` and so on of their rows.

    Args:
        query: [B, H, N, D] float32, bfloat16 or float16 on the CPU.
        keys, values: [B, Hkv, S, D] in the same dtype, S at least ``start + N``; H is a multiple of
            Hkv, and neighbouring heads share a key head. What lies behind is not read.
        start: keys before the first query.
        scale: of the scores; 1 / sqrt(D) by default.

    Returns:
        [B, N, H, D] in the dtype of ``query``.
    """
    end = start + query.shape[2]
    own = keys[:, :, start:end], values[:, :, start:end]
    output, weight = _flash(query, *own, is_causal=True, scale=scale)
    if start:
        past = keys[:, :, :start], values[:, :, :start]
        before, weight_before = _flash(query, *past, scale=scale)
        share = torch.sigmoid(weight_before - weight)[..., None]
        before = before.float()  # which replaces what it was made from: activations need memory
        output = output.float().lerp_(before, share).to(query.dtype)
    merged: Tensor = output.transpose(1, 2)
    return merged
