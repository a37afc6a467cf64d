"""Peak memory of an answer, against arithmetic.

Both models write it; reckoned are their weights and caches. A process of its own reads the
high-water mark of its resident memory, the figure that decides whether a machine holds it. From it
goes what was resident before the models were loaded but after a tiny pair of their kind and
vocabulary (for the demo, the pair itself) had answered and was gone: libraries, tokenizer, scratch
space and thread pools, which no model is to blame for.

    python -m steer_decode.bench.decode.memory MODEL CONTEXT TOKENS THREADS   one line of JSON
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from ...core.boundary import StepBoundary
from ...core.sampling import Sampling
from ...core.transcript import WRITERS, Transcript
from ...decode.router import Router
from ...decode.stream import RoutedStream
from ...errors import SteerError
from ...models.pair import Pair
from ...policies import RandomShare
from .models import SHAPES, load, make_tokenizer, random_model
from .plan import DecodePlan, DecodeRow, Job

STEP = 4  # tokens of a step, so that both models get to write


def rows(job: Job, plan: DecodePlan) -> list[DecodeRow]:
    """Measures in a fresh process.

    Raises:
        SteerError: that process failed.
    """
    numbers = (job.context, max(plan.tokens_of(job), 4 * STEP), job.threads)
    command = [sys.executable, "-m", __name__, job.model, *map(str, numbers)]
    # Which freed blocks glibc keeps depends on what it met before; with a threshold of its own it
    # gives them all back, and the peak is of what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SteerError(f"measuring the memory of {job.model!r} failed: {last}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return [DecodeRow.of("memory", job, figures["peak"] / figures["arithmetic"])]


def arithmetic(pair: Pair, tokens: int) -> int:
    """Bytes of both models' weights and of ``tokens`` cached.

    Each weight counts once; cached are keys and values.
    """
    weights = {w.data_ptr(): w.nbytes for m in (pair.small, pair.large) for w in m.parameters()}
    return sum(weights.values()) + sum(pair.shapes[w].cache_bytes(tokens) for w in WRITERS)


def answer(pair: Pair, context: int, tokens: int, boundary: StepBoundary) -> None:
    """Let both models read a prompt and write in turns."""
    router = Router(pair, RandomShare(0.5), boundary)
    ids = [i % pair.vocab_size for i in range(context)]
    output = RoutedStream(router.routing, Transcript(ids), tokens, Sampling(), 0).finish()
    assert {step.writer for step in output.trace.steps} == set(WRITERS)


def main(model: str, context: int, tokens: int, threads: int) -> dict[str, int]:
    """Bytes: "peak" over what was there before, and "arithmetic"."""
    torch.set_num_threads(threads)
    warm = _warm_up_pair(model)
    boundary = StepBoundary(warm.tokenizer, warm.vocab_size, max_tokens=STEP)
    answer(warm, context, tokens, boundary)  # parts of prompts have code of their own
    del warm
    gc.collect()
    _return_what_is_free()
    before = psutil.Process().memory_info().rss
    _reset_high_water()
    pair = load(model, separate=True)
    answer(pair, context, tokens, boundary)
    return {"peak": _high_water() - before, "arithmetic": arithmetic(pair, context + tokens)}


def _warm_up_pair(model: str) -> Pair:
    """Runs the code that ``model`` will run, and has its vocabulary, but next to no weights."""
    if model == "demo":
        return load(model)
    tiny = replace(SHAPES[model], hidden=16, intermediate=16, layers=1, heads=1, kv_heads=1)
    return Pair(random_model(tiny), random_model(tiny), make_tokenizer(tiny.vocab))


def _return_what_is_free() -> None:
    """glibc keeps freed memory; other allocators keep it, and the peak comes out a little low."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water() -> None:
    """Where it cannot be reset, the peak of the imports counts, which a model soon passes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _high_water() -> int:
    """Most bytes that were resident at a time."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:5]))))
