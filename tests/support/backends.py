"""The backends of logit_stats as one callable each, and the comparison with the definition."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from packaging.version import Version
from support.tolerances import LOGIT_STATS, assert_close, torch_chain
from torch import Tensor

import steer_kernels
from steer_kernels import LogitStats, logit_stats, reference
from steer_kernels._extension import extension
from steer_kernels.ops import logit_stats as op_module

INF, NAN = math.inf, math.nan
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INTERPRETER_ROWS, INTERPRETER_ELEMENTS = 7, 10_000  # about a second of Triton's interpreter

Run = Callable[..., LogitStats]

needs_extension = pytest.mark.skipif(extension is None, reason="the C++ extension is not loaded")
HAS_CPU_LAYERS = extension is not None and os.environ.get("STEER_DECODE_CPU", "on") == "on"
needs_cpu_layers = pytest.mark.skipif(
    not HAS_CPU_LAYERS,
    reason="it is about the layers of engines/hf/cpu, which STEER_DECODE_CPU=off turns off "
    "(or the C++ extension is not loaded)",
)


def backends() -> list:
    """Parameters of the `run` fixture: every backend, whether or not it is here."""
    params = [pytest.param("reference", id="reference")]
    isas = steer_kernels.supported_cpu_isas()
    params += [pytest.param(f"cpu-{isa}", id=f"cpu-{isa}") for isa in isas]
    params.append(pytest.param("triton", id="triton"))
    params.append(pytest.param("cuda", id="cuda", marks=pytest.mark.gpu))
    params.append(pytest.param("cuda-triton", id="cuda-triton", marks=pytest.mark.gpu))
    return params


def _run_reference(logits: Tensor, k: int = 8, vocab_size: int | None = None) -> LogitStats:
    return LogitStats(*op_module._fallback(logits, k, vocab_size))


def _run_triton(logits: Tensor, k: int = 8, vocab_size: int | None = None) -> LogitStats:
    from steer_kernels.triton.logit_stats import logit_stats_triton

    if logits.shape[0] > INTERPRETER_ROWS or logits.numel() > INTERPRETER_ELEMENTS:
        pytest.skip("too large for Triton's interpreter")
    vocab_size = logits.shape[1] if vocab_size is None else vocab_size
    return LogitStats(*logit_stats_triton(logits, k, vocab_size))


def _on_cuda(logits: Tensor) -> Tensor:
    """With its storage as it is, so that strides and offsets arrive on the device."""
    storage = torch.empty(0, dtype=logits.dtype).set_(logits.untyped_storage()).cuda()
    return storage.as_strided(logits.shape, logits.stride(), logits.storage_offset())


def _run_cuda(logits: Tensor, k: int = 8, vocab_size: int | None = None) -> LogitStats:
    """What users call: the kernel of the CUDA part where that is built."""
    return LogitStats(*(field.cpu() for field in logit_stats(_on_cuda(logits), k, vocab_size)))


def _run_cuda_triton(logits: Tensor, k: int = 8, vocab_size: int | None = None) -> LogitStats:
    from steer_kernels.triton.logit_stats import logit_stats_triton

    vocab_size = logits.shape[1] if vocab_size is None else vocab_size
    found = logit_stats_triton(_on_cuda(logits), k, vocab_size)
    return LogitStats(*(field.cpu() for field in found))


def interpreter_fault(
    version: Callable[[str], str] = importlib.metadata.version,
) -> str | None:
    """Why Triton's interpreter cannot run the kernels here, and the way out; None where it can.

    `range` over a tensor: Triton 3.6, which torch 2.10 and 2.11 ask for, makes a number of an array
    of one element, which numpy 2.4 and newer refuse.
    """
    try:
        triton, numpy = (Version(version(name)) for name in ("triton", "numpy"))
    except importlib.metadata.PackageNotFoundError:
        return None
    if triton >= Version("3.7") or numpy < Version("2.4"):
        return None
    return (
        f"the interpreter of Triton {triton} fails with numpy {numpy}: install 'numpy<2.4', or a "
        "torch whose Triton is 3.7 or newer (2.12 on)"
    )


@contextmanager
def use_backend(name: str) -> Iterator[Run]:
    """A callable like `logit_stats` that takes and gives CPU tensors; skips what is not here."""
    if name == "reference":
        yield _run_reference
    elif name == "triton":
        if importlib.util.find_spec("triton") is None:
            pytest.skip("triton is not installed")
        if torch.cuda.is_available():
            pytest.skip("with a GPU the Triton kernel runs as 'cuda', not interpreted")
        yield _run_triton
    elif name == "cuda":
        yield _run_cuda
    elif name == "cuda-triton":
        yield _run_cuda_triton
    else:
        steer_kernels.set_cpu_isa(name.removeprefix("cpu-"))
        yield logit_stats
        steer_kernels.set_cpu_isa(None)


def random_logits(
    rows: int, columns: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=generator) * 4).to(dtype)


@functools.lru_cache(maxsize=256)
def expected_of_random(rows: int, columns: int, dtype: torch.dtype, k: int) -> tuple:
    """The float64 definition and torch's chain, computed once for all backends."""
    logits = random_logits(rows, columns, dtype)
    truth = reference.logit_stats(logits, k, out_dtype=torch.float64)
    return LogitStats(*truth), torch_chain(logits)


def check(
    actual: LogitStats, logits: Tensor | None, k: int, vocab_size: int | None = None, expected=None
) -> None:
    """Compare all six outputs with the definition."""
    if expected is None:
        columns = logits[:, :vocab_size]
        truth = reference.logit_stats(logits, k, vocab_size, out_dtype=torch.float64)
        expected = LogitStats(*truth), torch_chain(columns)
    truth, chain = expected
    assert actual.valid.dtype == torch.bool
    assert actual.topk_ids.dtype == torch.int64
    assert torch.equal(actual.valid, truth.valid)
    assert torch.equal(actual.topk_ids, truth.topk_ids)
    for name, tolerance in LOGIT_STATS.items():
        field = getattr(actual, name)
        assert field.dtype == torch.float32, name
        by_torch = chain[name] if tolerance.times_torch else None
        assert_close(name, field, getattr(truth, name), by_torch, tolerance)


def assert_same_bits(a: LogitStats, b: LogitStats) -> None:
    for name, x, y in zip(LogitStats._fields, a, b, strict=True):
        if x.dtype == torch.float32:
            x, y = x.contiguous().view(torch.int32), y.contiguous().view(torch.int32)
        assert torch.equal(x, y), f"{name} differs"
