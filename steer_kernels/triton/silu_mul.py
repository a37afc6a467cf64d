"""The product within an MLP: silu(gate) times the rest.

Mathematics  a = g / (1 + exp(-g)), in float32 and then rounded to the dtype; out = a u, rounded.
             That is the order of transformers.
Movement     A thread has eight neighbours: 16 bytes of 16-bit numbers in one load.
Bytes        Two numbers read and one written.
Sync         One launch; programs know nothing of each other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from steer_kernels.triton.logit_stats import device_of

LAUNCH = {"BLOCK": 1024, "num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def silu_mul_kernel(gate, up, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    parts: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    place = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    here = place < SIZE
    at = (tl.program_id(0) // parts).to(tl.int64) * SIZE + place
    dtype = out.dtype.element_ty
    g = tl.load(gate + at, mask=here, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=here, other=0.0).to(tl.float32)
    a = (g / (1.0 + tl.exp(-g))).to(dtype).to(tl.float32)
    tl.store(out + at, (a * u).to(dtype), mask=here)


def silu_mul_triton(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) times up.

    The arguments are taken as checked.

    Args:
        gate, up: of one shape and dtype (fp32, bf16 or fp16), contiguous.

    Returns:
        As `gate`.
    """
    out = torch.empty_like(gate)
    size = gate.shape[-1]
    if gate.numel():
        programs = gate.numel() // size * triton.cdiv(size, LAUNCH["BLOCK"])
        with device_of(gate):
            silu_mul_kernel[(programs,)](gate, up, out, SIZE=size, **LAUNCH)
    return out
