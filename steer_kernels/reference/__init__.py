"""The operators' definitions in plain torch.

They are in float64 where numbers are computed: slow, and short enough to check by eye. Tests
compare every backend with these, and they stand in where a backend is missing.
"""

from steer_kernels.reference.fused import add_rms_norm, rope_append_, silu_mul
from steer_kernels.reference.layers import decode_attention, decode_linear, rms_norm
from steer_kernels.reference.sampling import (
    Sampled,
    Stats,
    accept_drafts,
    draw,
    exponents,
    found,
    kept,
    logit_stats,
    sample_logits,
    verify,
)
from steer_kernels.reference.state import kv_append_, step_update_

__all__ = [
    "Sampled",
    "Stats",
    "accept_drafts",
    "add_rms_norm",
    "decode_attention",
    "decode_linear",
    "draw",
    "exponents",
    "found",
    "kept",
    "kv_append_",
    "logit_stats",
    "rms_norm",
    "rope_append_",
    "sample_logits",
    "silu_mul",
    "step_update_",
    "verify",
]
