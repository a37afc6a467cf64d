"""kv_append_ against the concatenation of transformers' DynamicCache, and against a plain copy.

    python benchmarks/bench_kv_append.py                       # a table
    python benchmarks/bench_kv_append.py --json kv_append.json --threads 1 2
    python -m pytest benchmarks/bench_kv_append.py             one layer, many rows; in groups
    steer bench kernels --ops kv_append_                       the same in turns, medians, JSON

One token, and a hand-over of 64, is appended to every layer of a model at each context length. A
plain copy is one `copy_` of the new keys and one of the new values per layer, into views of the
cache made beforehand: no indexing, no checks, rows not ragged. Contenders take turns within each
round, in the same process, and the fastest of the rounds counts; a DynamicCache grows, so it is
put back to its length between rounds, outside the clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from grouped import grouped
from transformers import DynamicCache

import steer_kernels

CONTEXTS = (512, 2048, 8192)
NEW_TOKENS = (1, 64)


class Shape(NamedTuple):
    """Keys and values of a model: layers, key-value heads, head size."""

    name: str
    layers: int
    heads: int
    size: int


SHAPES = (
    Shape("Qwen2.5-0.5B", 24, 2, 64),
    Shape("Qwen2.5-1.5B", 28, 2, 128),
    Shape("Qwen2.5-7B", 28, 4, 128),
)

Contender = tuple[Callable[[], None], Callable[[], None]]  # what is timed, and what undoes it


test_kv_append = grouped("kv_append_")


def nothing() -> None:
    pass


def contenders(shape: Shape, context: int, new: int, dtype: torch.dtype) -> dict[str, Contender]:
    """Everything allocated and filled: only the append itself is left to do."""
    layers = range(shape.layers)
    k, v = (torch.randn(1, shape.heads, new, shape.size).to(dtype) for _ in range(2))
    caches = [
        [torch.randn(1, shape.heads, context + new, shape.size).to(dtype) for _ in range(2)]
        for _ in layers
    ]
    rows = torch.zeros(1, dtype=torch.int64)
    starts, counts = torch.full_like(rows, context), torch.full_like(rows, new)
    views = [[cache[:, :, context:] for cache in pair] for pair in caches]
    dynamic = DynamicCache()
    for i in layers:
        dynamic.update(*(cache[:, :, :context].clone() for cache in caches[i]), i)
    kept = [(layer.keys, layer.values) for layer in dynamic.layers]

    def steer() -> None:
        for k_cache, v_cache in caches:
            steer_kernels.kv_append_(k_cache, v_cache, k, v, rows, starts, counts)

    def copy() -> None:
        for k_view, v_view in views:
            k_view.copy_(k)
            v_view.copy_(v)

    def concatenate() -> None:
        for i in layers:
            dynamic.update(k, v, i)

    def shorten() -> None:
        for layer, (keys, values) in zip(dynamic.layers, kept, strict=True):
            layer.keys, layer.values = keys, values

    return {
        "steer": (steer, nothing),
        "copy": (copy, nothing),
        "DynamicCache": (concatenate, shorten),
    }


def interleaved(table: dict[str, Contender], seconds: float) -> dict[str, float]:
    """Fastest round of each, in microseconds."""
    best = dict.fromkeys(table, float("inf"))
    end = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < end or rounds < 5:
        for name, (call, undo) in table.items():
            for _ in range(1 if name == "DynamicCache" else 10):
                begin = time.perf_counter()
                call()
                best[name] = min(best[name], time.perf_counter() - begin)
                undo()
        rounds += 1
    return {name: 1e6 * value for name, value in best.items()}


def measure(shape: Shape, new: int, dtype: torch.dtype, threads: int, seconds: float) -> list[dict]:
    torch.set_num_threads(threads)
    table = {}
    for context in CONTEXTS:  # all of them first, so that contexts take turns too
        for name, contender in contenders(shape, context, new, dtype).items():
            table[f"{name} {context}"] = contender
    best = interleaved(table, seconds)
    moved = 2 * shape.layers * shape.heads * new * shape.size * dtype.itemsize
    rows = []
    for context in CONTEXTS:
        ours = best[f"steer {context}"]
        for peer in ("copy", "DynamicCache"):
            theirs = best[f"{peer} {context}"]
            rows.append(
                {
                    "op": "kv_append_",
                    "backend": "cpu",
                    "device": platform.machine(),
                    "dtype": str(dtype).removeprefix("torch."),
                    "shape": shape.name,
                    "layers": shape.layers,
                    "context": context,
                    "new_tokens": new,
                    "threads": threads,
                    "median_us": None,
                    "min_us": ours,
                    "gbps": 2 * moved / ours / 1e3,  # read and written
                    "peer": peer,
                    "peer_us": theirs,
                    "ratio": theirs / ours,
                    "to_first_context": ours / best[f"steer {CONTEXTS[0]}"],
                }
            )
    return rows


def show(rows: list[dict]) -> None:
    for copy, dynamic in zip(rows[::2], rows[1::2], strict=True):
        print(
            f"{copy['shape']:>13} {copy['threads']}T +{copy['new_tokens']:<3} context "
            f"{copy['context']:>5}: {copy['min_us']:9.1f} us, {copy['gbps']:6.2f} GB/s, "
            f"{copy['to_first_context']:5.2f}x of context {CONTEXTS[0]}, "
            f"{1 / copy['ratio']:5.2f}x of a copy ({copy['peer_us']:.1f} us), "
            f"DynamicCache {dynamic['peer_us']:10.1f} us = {dynamic['ratio']:7.1f}x",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each line of three")
    options = parser.parse_args()
    rows: list[dict] = []
    for threads in options.threads:
        for shape in SHAPES:
            for new in NEW_TOKENS:
                dtype = getattr(torch, options.dtype)
                found = measure(shape, new, dtype, threads, options.seconds)
                show(found)
                rows += found
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
