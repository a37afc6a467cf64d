"""A sum and its root mean square norm.

Mathematics  s = x + r, rounded to the dtype; y = s / sqrt(mean(s^2) + epsilon), in float32 and then
             rounded; out = weight y, rounded. That is the order of transformers.
Movement     A program a row, which it holds in registers from the sum to the product.
Bytes        Two rows and the weight read, two rows written.
Sync         One launch; programs know nothing of each other. The sum of squares is a tree within
             a program, so a row has the same bits beside any others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from steer_kernels.triton.logit_stats import device_of

LONGEST = 16384  # numbers of a row: 32 for each of 512 threads


@triton.jit
def add_rms_norm_kernel(
    x, residual, weight, total_out, normed_out, epsilon, SIZE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    at = tl.arange(0, BLOCK)
    here = at < SIZE
    first = tl.program_id(0).to(tl.int64) * SIZE
    dtype = total_out.dtype.element_ty
    added = tl.load(x + first + at, mask=here, other=0.0).to(tl.float32)
    total = (tl.load(residual + first + at, mask=here, other=0.0).to(tl.float32) + added).to(dtype)
    tl.store(total_out + first + at, total, mask=here)
    y = total.to(tl.float32)
    y = y * tl.rsqrt(tl.sum(y * y, axis=0) / SIZE + epsilon)
    scale = tl.load(weight + at, mask=here, other=0.0).to(tl.float32)
    tl.store(normed_out + first + at, (scale * y.to(dtype).to(tl.float32)).to(dtype), mask=here)


def launch(size: int) -> dict[str, int | bool]:
    """How to launch for rows of `size` numbers."""
    block = max(32, triton.next_power_of_2(size))
    warps = 1 if block <= 128 else 4 if block <= 2048 else 8 if block <= 8192 else 16
    return {"SIZE": size, "BLOCK": block, "num_warps": warps, "enable_fp_fusion": False}


def add_rms_norm_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """residual + x, and its norm.

    The arguments are taken as checked.

    Args:
        x, residual: [..., K], contiguous, of one dtype: fp32, bf16 or fp16; K at most LONGEST.
        weight: [K], likewise.
        epsilon: at least 0.

    Returns:
        The sum and its norm, as `x`.
    """
    total, normed = torch.empty_like(x), torch.empty_like(x)
    size = weight.shape[0]
    if x.numel():
        with device_of(x):
            add_rms_norm_kernel[(x.numel() // size,)](
                x, residual, weight, total, normed, epsilon, **launch(size)
            )
    return total, normed
