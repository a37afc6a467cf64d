"""Kernels for confidence-routed decoding.

>>> import torch, steer_kernels
>>> stats = steer_kernels.logit_stats(torch.randn(2, 32000), k=8)
>>> stats.entropy, stats.max_prob, stats.topk_ids

Importing this package needs torch only: no GPU, no triton, no transformers. Where the C++ extension
is missing or does not load, one warning says so and the operators run on the float64 torch
reference instead.
"""

from steer_kernels._extension import (
    __version__,
    build_info,
    cpu_isa,
    set_cpu_isa,
    supported_cpu_isas,
)
from steer_kernels.ops.accept_drafts import PackedDraft, accept_drafts
from steer_kernels.ops.decode_attention import decode_attention
from steer_kernels.ops.decode_linear import decode_linear
from steer_kernels.ops.kv_append import kv_append_
from steer_kernels.ops.logit_stats import LogitStats, logit_stats
from steer_kernels.ops.rms_norm import rms_norm
from steer_kernels.ops.sample_logits import SampledLogits, sample_logits
from steer_kernels.ops.sample_logits_packed import Packed, sample_logits_packed, unpack
from steer_kernels.ops.step_update import (
    RowFlag,
    StepState,
    TokenClass,
    step_update_,
    token_classes,
)

__all__ = [
    "LogitStats",
    "Packed",
    "PackedDraft",
    "RowFlag",
    "SampledLogits",
    "StepState",
    "TokenClass",
    "__version__",
    "accept_drafts",
    "build_info",
    "cpu_isa",
    "decode_attention",
    "decode_linear",
    "kv_append_",
    "logit_stats",
    "rms_norm",
    "sample_logits",
    "sample_logits_packed",
    "set_cpu_isa",
    "step_update_",
    "supported_cpu_isas",
    "token_classes",
    "unpack",
]
