"""decode_linear against torch's linear, and against one read of the weights.

    python benchmarks/bench_decode_linear.py                           # a table, three minutes
    python benchmarks/bench_decode_linear.py --tokens 1 --threads 1 2 --dtypes float32
    python benchmarks/bench_decode_linear.py --json linear.json

The matrices of a model, as many of each as do not fit the caches (256 MB, at least two), read one
after another. Peers: torch.nn.functional.linear; and torch.sum of the same bytes as float32, the
one read that is the floor. Contenders take turns within each round and the fastest round counts:
CPU time on one thread, the wall clock on more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rounds import fastest
from torch import Tensor
from torch.nn.functional import linear

import steer_kernels

BYTES = 256 << 20
DTYPES = ("float32", "bfloat16", "float16")


class Shape(NamedTuple):
    """A weight of a model: outputs and inputs."""

    name: str
    outputs: int
    inputs: int


SHAPES = (
    Shape("SmolLM2-135M, up", 1536, 576),
    Shape("SmolLM2-135M, down", 576, 1536),
    Shape("Qwen2.5-0.5B, query", 896, 896),
    Shape("Qwen2.5-0.5B, up", 4864, 896),
    Shape("Qwen2.5-0.5B, down", 896, 4864),
    Shape("Qwen2.5-0.5B, head", 151936, 896),
)


def contenders(shape: Shape, tokens: int, dtype: torch.dtype) -> tuple[dict[str, Callable], int]:
    """Calls over all matrices, by name, and how many matrices they are."""
    count = max(2, -(-BYTES // (shape.outputs * shape.inputs * dtype.itemsize)))
    weights = [torch.randn(shape.outputs, shape.inputs).to(dtype) for _ in range(count)]
    words = [weight.view(-1).view(torch.float32) for weight in weights]
    x = torch.randn(tokens, shape.inputs).to(dtype)

    def over(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for weight in weights:
                call(x, weight)

        return run

    def read() -> None:
        for word in words:
            word.sum()

    return {"steer": over(steer_kernels.decode_linear), "linear": over(linear), "read": read}, count


def measure(
    shape: Shape, tokens: int, dtype: torch.dtype, threads: int, seconds: float
) -> list[dict]:
    torch.set_num_threads(threads)
    table, count = contenders(shape, tokens, dtype)
    best = {name: 1e6 * t / count for name, t in fastest(table, seconds, threads).items()}
    moved = shape.outputs * shape.inputs * dtype.itemsize
    return [
        {
            "op": "decode_linear",
            "cpu_isa": steer_kernels.cpu_isa(),
            "dtype": str(dtype).removeprefix("torch."),
            "shape": shape.name,
            "outputs": shape.outputs,
            "inputs": shape.inputs,
            "tokens": tokens,
            "threads": threads,
            "min_us": best["steer"],
            "gbps": moved / best["steer"] / 1e3,
            "peer": peer,
            "peer_us": best[peer],
            "ratio": best[peer] / best["steer"],
        }
        for peer in table
        if peer != "steer"
    ]


def show(rows: list[dict]) -> None:
    first = rows[0]
    peers = ", ".join(f"{row['peer']} {row['peer_us']:8.1f} ({row['ratio']:.2f}x)" for row in rows)
    print(
        f"{first['shape']:>19} {first['dtype']:>8} {first['threads']}T {first['tokens']:>3} "
        f"tokens: {first['min_us']:8.1f} us, {first['gbps']:5.1f} GB/s; {peers}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 16, 128])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each line")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows: list[dict] = []
    for threads in options.threads:
        for dtype in options.dtypes:
            for shape in SHAPES:
                for tokens in options.tokens:
                    found = measure(shape, tokens, getattr(torch, dtype), threads, options.seconds)
                    show(found)
                    rows += found
                    if options.json:
                        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
