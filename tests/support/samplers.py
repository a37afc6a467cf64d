"""The backends of sample_logits as one callable each, and what its tests go through."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from support.backends import INF
from torch import Tensor

import steer_kernels
from steer_kernels import SampledLogits, reference, sample_logits
from steer_kernels.ops import sample_logits as op_module

CUTS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.6, 0, 1.0, 0.0),
    (1.0, 5, 1.0, 0.0),
    (0.8, 1, 1.0, 0.0),
    (1.3, 64, 1.0, 0.0),
    (1.3, 90, 0.95, 0.0),  # past the list: the row is sorted
    (1.0, 0, 0.9, 0.0),
    (2.5, 0, 0.99, 0.0),  # past the list
    (1.0, 0, 1e-6, 0.0),
    (1.0, 0, 1.0, 0.1),
    (3.0, 0, 1.0, 0.01),
    (0.9, 30, 0.8, 0.05),
]
PLAIN = CUTS[:3]

Sample = Callable[..., SampledLogits]


def _reference(*args: object, **kwargs: object) -> SampledLogits:
    return SampledLogits(*op_module._fallback(*args, **kwargs))


def _cuda(logits: Tensor, uniform: Tensor, *args: object, **kwargs: object) -> SampledLogits:
    out = sample_logits(logits.cuda(), uniform.cuda(), *args, **kwargs)
    return SampledLogits(*(field.cpu() for field in out))


def _cuda_triton(
    logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
    min_p: float = 0.0, k: int = 8, vocab_size: int | None = None,
) -> SampledLogits:  # fmt: skip
    """Where the CUDA part has a kernel of its own too."""
    from steer_kernels.ops._sampling import Cuts
    from steer_kernels.triton.sample_logits import sample_logits_triton

    columns = logits.shape[1] if vocab_size is None else vocab_size
    cuts = Cuts(temperature, top_k, top_p, min_p)
    out = sample_logits_triton(logits.cuda(), uniform.cuda(), cuts, k, columns)
    return SampledLogits(*(field.cpu() for field in out))


def triton_sample(
    logits: Tensor, uniform: Tensor, *args: object, **kwargs: object
) -> SampledLogits:
    if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
        pytest.skip("needs triton, and no GPU: with one the kernel runs as 'cuda'")
    if logits.numel() > 10_000:
        pytest.skip("too large for Triton's interpreter")
    return SampledLogits(*op_module._cuda(logits, uniform, *args, **kwargs))


SAMPLERS = ["reference", *(f"cpu-{isa}" for isa in steer_kernels.supported_cpu_isas())]
SAMPLERS += ["triton", *(pytest.param(n, marks=pytest.mark.gpu) for n in ("cuda", "cuda-triton"))]


@contextmanager
def use_sampler(name: str) -> Iterator[Sample]:
    """A callable like `sample_logits` for CPU tensors."""
    others = {"reference": _reference, "triton": triton_sample, "cuda": _cuda,
              "cuda-triton": _cuda_triton}  # fmt: skip
    if name in others:
        yield others[name]
        return
    steer_kernels.set_cpu_isa(name.removeprefix("cpu-"))
    yield sample_logits
    steer_kernels.set_cpu_isa(None)


def probabilities(row: Tensor, cuts: tuple) -> Tensor:
    """Float64 probabilities [V] of the distribution that `cuts` make of one row."""
    x = row.double()[None]
    d = (x - x.max()) / cuts[0]
    return d.where(reference.kept(x, *cuts), -INF).softmax(-1)[0]


def middles(p: Tensor, least: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Tokens with a share of at least `least`, and the uniform in the middle of each share."""
    tokens = (p > least).nonzero()[:, 0]
    return tokens, (p.cumsum(-1) - p / 2)[tokens]


def assert_follows(tokens: Tensor, p: Tensor) -> None:
    """Chi-square test of drawn tokens [N] against their probabilities [V].

    Tokens with fewer than 25 expected share buckets of at least 25. The bound is Wilson and
    Hilferty's: the cube root is close to normal; 5 standard deviations.
    """
    columns = len(p)
    expected, order = (p * len(tokens)).sort(descending=True)
    counts = tokens.bincount(minlength=columns).double()[order]
    assert counts[expected == 0].sum() == 0
    bucket = torch.where(expected >= 25, torch.arange(columns), 0)
    large = int((expected >= 25).sum())
    bucket[large:] = large + (expected[large:].cumsum(-1) / 25).long()
    zeros = torch.zeros(int(bucket.max()) + 1, dtype=torch.float64)
    want = zeros.scatter_add(0, bucket, expected)
    got = zeros.scatter_add(0, bucket, counts)
    assert got[want < 1e-9].sum() == 0
    want, got = want[want > 5], got[want > 5]
    statistic, freedom = float(((got - want) ** 2 / want).sum()), len(want) - 1
    if freedom == 0:  # one token is all there is
        return
    bound = freedom * (1 - 2 / (9 * freedom) + 5 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert statistic < bound, (statistic, freedom)


def as_near_as_sums_tell(cuts: tuple) -> list[tuple]:
    """``cuts``, and those that sums in float32 cannot tell from them."""
    # A share may be met just so, by equal weights for instance.
    temperature, top_k, top_p, min_p = cuts
    if top_p == 1:
        return [cuts]
    return [(temperature, top_k, top_p * by, min_p) for by in (1, 1 - 2e-6, 1 + 2e-6)]
