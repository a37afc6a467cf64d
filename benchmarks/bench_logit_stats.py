"""logit_stats against the chain of torch calls that gives the same figures.

    python -m pytest benchmarks/bench_logit_stats.py --benchmark-group-by=param:shape
    python -m pytest benchmarks/bench_logit_stats.py --benchmark-json=logit_stats.json

Both sides run in the same process on the same buffer, alternating by parameter. `extra_info` of
the JSON holds the bytes of one read of the logits, the gigabytes a second that the fastest round
amounts to, the number of threads and the instruction set. `max` is one pass of torch.max over the
same buffer: the floor for anything that reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import steer_kernels

K = 8
SHAPES = [(1, 292), (1, 151_936), (8, 151_936)]
DTYPES = [torch.float32, torch.bfloat16]
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=no_gpu)]


def torch_chain(logits: Tensor) -> tuple[Tensor, ...]:
    """Maximum, log-sum-exp, entropy and top-k as eager torch computes them."""
    x = logits.float()
    logprobs = torch.log_softmax(x, -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    values, ids = x.topk(K, -1)
    return values[:, 0], torch.logsumexp(x, -1), entropy, values, ids


CONTENDERS: dict[str, Callable[[Tensor], Any]] = {
    "steer": lambda logits: steer_kernels.logit_stats(logits, K),
    "torch": torch_chain,
    "max": lambda logits: logits.max(-1).values,
}


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n}threads")
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_logit_stats(
    benchmark: Any,
    contender: str,
    device: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    threads: int,
) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(shape) * 4).to(device, dtype)
    run = CONTENDERS[contender]

    def call() -> None:
        run(logits)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark(call)
    read = logits.numel() * logits.element_size()
    best = benchmark.stats.stats.min if benchmark.stats else float("nan")
    benchmark.extra_info.update(
        bytes=read,
        gigabytes_per_second=read / best / 1e9,
        threads=threads,
        cpu_isa=steer_kernels.cpu_isa(),
        torch=str(torch.__version__),
    )
