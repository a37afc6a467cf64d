"""decode_attention against torch's SDPA, and against one read of the keys and values.

    python benchmarks/bench_decode_attention.py                        # a table, three minutes
    python benchmarks/bench_decode_attention.py --contexts 4096 --dtypes bfloat16 --threads 1 2
    python benchmarks/bench_decode_attention.py --json attention.json

One new token of one row, over so many layers that their keys and values do not fit the caches (64
MB and at least two layers). Peers: SDPA as transformers calls it for grouped heads (enable_gqa);
SDPA with the heads of a group in the place of new tokens, the least that can be asked of it; and
torch.sum of the same bytes as float32, the one read that is the floor. Contenders take turns within
each round and the fastest round counts: CPU time on one thread, the wall clock on more.
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
from torch.nn.functional import scaled_dot_product_attention

import steer_kernels

BYTES = 64 << 20


class Shape(NamedTuple):
    """Query heads, key heads and head size of a model."""

    name: str
    heads: int
    kv_heads: int
    size: int


SHAPES = (
    Shape("demo, small", 3, 3, 32),
    Shape("demo, large", 8, 8, 32),
    Shape("SmolLM2-135M", 9, 3, 64),
    Shape("Qwen2.5-0.5B", 14, 2, 64),
    Shape("Qwen2.5-7B", 28, 4, 128),
)


def contenders(shape: Shape, context: int, dtype: torch.dtype) -> tuple[dict[str, Callable], int]:
    """Calls over all layers, by name, and how many layers they are."""
    moved = 2 * shape.kv_heads * context * shape.size * dtype.itemsize
    layers = max(2, -(-BYTES // moved))
    sizes = 1, shape.kv_heads, context, shape.size
    cache = [(torch.randn(sizes).to(dtype), torch.randn(sizes).to(dtype)) for _ in range(layers)]
    words = [side.view(-1).view(torch.float32) for pair in cache for side in pair]
    query = torch.randn(1, shape.heads, 1, shape.size).to(dtype)
    packed = query.view(1, shape.kv_heads, -1, shape.size)
    starts = torch.tensor([context - 1])

    def over(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for keys, values in cache:
                call(keys, values)

        return run

    def read() -> None:
        for side in words:
            side.sum()

    return {
        "steer": over(lambda k, v: steer_kernels.decode_attention(query, k, v, starts)),
        "sdpa gqa": over(lambda k, v: scaled_dot_product_attention(query, k, v, enable_gqa=True)),
        "sdpa packed": over(lambda k, v: scaled_dot_product_attention(packed, k, v)),
        "read": read,
    }, layers


def measure(
    shape: Shape, context: int, dtype: torch.dtype, threads: int, seconds: float
) -> list[dict]:
    torch.set_num_threads(threads)
    table, layers = contenders(shape, context, dtype)
    best = {name: 1e6 * t / layers for name, t in fastest(table, seconds, threads).items()}
    moved = 2 * shape.kv_heads * context * shape.size * dtype.itemsize
    return [
        {
            "op": "decode_attention",
            "cpu_isa": steer_kernels.cpu_isa(),
            "dtype": str(dtype).removeprefix("torch."),
            "shape": shape.name,
            "context": context,
            "threads": threads,
            "layers": layers,
            "min_us": best["steer"],
            "gbps": moved / best["steer"] / 1e3,
            "multiply_adds": 2 * shape.heads * context * shape.size,
            "peer": peer,
            "peer_us": best[peer],
            "ratio": best[peer] / best["steer"],
        }
        for peer in table
        if peer != "steer"
    ]


def show(rows: list[dict]) -> None:
    first = rows[0]
    peers = ", ".join(f"{row['peer']} {row['peer_us']:7.1f} ({row['ratio']:.2f}x)" for row in rows)
    print(
        f"{first['shape']:>13} {first['dtype']:>8} {first['threads']}T {first['context']:>6}: "
        f"{first['min_us']:7.1f} us a layer, {first['gbps']:5.1f} GB/s; {peers}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024, 4096, 16384])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each line")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows: list[dict] = []
    for threads in options.threads:
        for dtype in options.dtypes:
            for shape in SHAPES:
                for context in options.contexts:
                    found = measure(shape, context, getattr(torch, dtype), threads, options.seconds)
                    show(found)
                    rows += found
                    if options.json:
                        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
