"""logit_stats against the torch calls that give the same figures, eager and compiled.

    python -m pytest benchmarks/bench_logit_stats.py  a group for each case, ours and the peers
    python benchmarks/bench_logit_stats.py            ratios, measured in turns; no plugin needed;
                                                      --threads-only for two threads alone
    steer bench kernels --ops logit_stats             in turns too, medians, JSON

`max` is one pass of torch.max over a float32 buffer of the same shape: the floor for anything that
reads it. As a script, the contenders take turns in short runs and the least time of each counts, so
that other work on the machine weighs on all of them alike. It prints ratios for one thread and how
much faster two threads are, of the operator and of `steer_kernels.fast`, which writes into kept
outputs. One and two threads take turns as well; two threads want two idle cores, so this is the
figure that other work spoils first, and the load is printed beside it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from grouped import grouped
from steer_decode.bench.kernels.workload import stats_chain
from torch import Tensor

import steer_kernels
from steer_kernels import fast

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
    return (
        f"B = {rows} {str(dtype)[6:]:8s} {us['steer'] / rows:6.1f} us a row"
        f"  torch {us['torch'] / us['steer']:5.1f}x"
        f"  compiled {us['compiled'] / us['steer']:5.1f}x"
        f"  of torch.max {us['steer'] / us['max']:.2f}x"
    )


def two_threads(logits: Tensor, dtype: torch.dtype, blocks: int = 60) -> str:
    """One line: how much faster two threads are, one and two taking turns block by block."""
    x, out = logits.to(dtype), fast.empty_stats(logits.shape[0], K)
    calls: dict[str, Callable[[], Any]] = {
        "operator": lambda: CONTENDERS["steer"](x),
        "fast": lambda: fast.logit_stats_(x, out),
        "torch.max": lambda: torch.max(logits),
    }
    least = {threads: dict.fromkeys(calls, float("inf")) for threads in (1, 2)}
    for _ in range(blocks):
        for threads, best in least.items():
            torch.set_num_threads(threads)
            for name, us in least_microseconds(calls, rounds=8).items():
                best[name] = min(best[name], us)
    torch.set_num_threads(1)
    parts = [
        f"{name} {one:.1f} / {least[2][name]:.1f} us = {one / least[2][name]:.2f}x"
        for name, one in least[1].items()
    ]
    return f"B = {logits.shape[0]} {str(dtype)[6:]:8s} one / two threads: " + ", ".join(parts)


def main() -> None:
    print(f"torch {torch.__version__}, {steer_kernels.cpu_isa()}, V = {SHAPES[-1][1]}, k = {K}")
    for shape in SHAPES:
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4
        for dtype in DTYPES:
            if "--threads-only" not in sys.argv:
                print(ratios(logits, dtype))
            print(two_threads(logits, dtype), flush=True)
    print(f"load {os.getloadavg()[0]:.1f}; native fast path: {fast.native()}")


if __name__ == "__main__":
    main()
