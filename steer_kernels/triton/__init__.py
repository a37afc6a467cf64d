"""Triton kernels, one file per op.

Importing this package needs triton and fails without it.
"""

from steer_kernels.triton.logit_stats import logit_stats_triton

__all__ = ["logit_stats_triton"]
