"""logit_stats against the torch calls that give the same figures, eager and compiled.

    python -m pytest benchmarks/bench_logit_stats.py  a group for each case, ours and the peers
    python benchmarks/bench_logit_stats.py            ratios, measured in turns; no plugin needed
    steer bench kernels --ops logit_stats             in turns too, medians, JSON

`max` is one pass of torch.max over a float32 buffer of the same shape: the floor for anything that
reads it. As a script, the contenders take turns in short runs and the least time of each counts, so
that other work on the machine weighs on all of them alike; it prints ratios for one thread and, for
one row, how much faster two threads are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from grouped import grouped
from steer_decode.bench.workload import stats_chain
from torch import Tensor

import steer_kernels

K = 8
SHAPES = [(1, 151_936), (8, 151_936)]
DTYPES = [torch.float32, torch.bfloat16]


COMPILED = torch.compile(stats_chain, dynamic=False)
CONTENDERS: dict[str, Callable[[Tensor], Any]] = {
    "steer": lambda logits: steer_kernels.logit_stats(logits, K),
    "torch": lambda logits: stats_chain(logits, K),
    "compiled": lambda logits: COMPILED(logits, K),
    "max": lambda logits: torch.max(logits),
}


test_logit_stats = grouped("logit_stats")


def least_microseconds(
    calls: dict[str, Callable[[], Any]], rounds: int = 100, repeats: int = 4
) -> dict[str, float]:
    """The least time of each call over `rounds` short runs that take turns."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # caches and threads as this call leaves them
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            least[name] = min(least[name], (time.perf_counter() - start) / repeats * 1e6)
    return least


def ratios(logits: Tensor, dtype: torch.dtype) -> str:
    """One line: microseconds a row, and how the others compare."""
    x, rows = logits.to(dtype), logits.shape[0]
    calls: dict[str, Callable[[], Any]] = {
        "steer": lambda: CONTENDERS["steer"](x),
        "torch": lambda: CONTENDERS["torch"](x),
        "compiled": lambda: CONTENDERS["compiled"](x),
        "max": lambda: torch.max(logits),
    }
    torch.set_num_threads(1)
    us = least_microseconds(calls)
    torch.set_num_threads(2)
    two = least_microseconds({name: calls[name] for name in ("steer", "max")})
    return (
        f"B = {rows} {str(dtype)[6:]:8s} {us['steer'] / rows:6.1f} us a row"
        f"  torch {us['torch'] / us['steer']:5.1f}x"
        f"  compiled {us['compiled'] / us['steer']:5.1f}x"
        f"  of torch.max {us['steer'] / us['max']:.2f}x"
        f"  two threads {us['steer'] / two['steer']:.2f}x (torch.max {us['max'] / two['max']:.2f}x)"
    )


def main() -> None:
    print(f"torch {torch.__version__}, {steer_kernels.cpu_isa()}, V = {SHAPES[-1][1]}, k = {K}")
    for shape in SHAPES:
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4
        for dtype in DTYPES:
            print(ratios(logits, dtype))


if __name__ == "__main__":
    main()
