"""rms_norm against the norm of transformers, which is six operators, and that of torch.

    python benchmarks/bench_rms_norm.py                               # a table, a minute
    python benchmarks/bench_rms_norm.py --rows 1 --dtypes float32

Peers: LlamaRMSNorm of transformers and torch.nn.functional.rms_norm. Contenders take turns within
each round and the fastest round counts: CPU time of one thread, calls included, everything in the
caches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from rounds import fastest
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import steer_kernels

DTYPES = ("float32", "bfloat16", "float16")
SIZES = (96, 576, 896, 4096)
CALLS = 50  # of a round
EPSILON = 1e-6


def contenders(rows: int, size: int, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    layer = LlamaRMSNorm(size, EPSILON).to(dtype)
    x = torch.randn(1, rows, size).to(dtype)
    weight = layer.weight

    def times(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                call()

        return run

    return {
        "steer": times(lambda: steer_kernels.rms_norm(x, weight, EPSILON)),
        "transformers": times(lambda: layer(x)),
        "torch": times(lambda: torch.nn.functional.rms_norm(x, (size,), weight, EPSILON)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for dtype in options.dtypes:
        for size in SIZES:
            for rows in options.rows:
                table = contenders(rows, size, getattr(torch, dtype))
                best = fastest(table, options.seconds, 1)
                ours = best.pop("steer")
                peers = ", ".join(f"{name} {t / ours:5.2f}x" for name, t in best.items())
                print(
                    f"{dtype:>8} [{rows:>3}, {size:>4}]: {1e6 * ours / CALLS:7.2f} us; {peers}",
                    flush=True,
                )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
