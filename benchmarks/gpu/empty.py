"""A Triton kernel that does nothing: what a launch through Triton costs at least."""

from __future__ import annotations

import triton


@triton.jit
def empty_kernel() -> None:
    pass


def launch() -> None:
    empty_kernel[(1,)]()
