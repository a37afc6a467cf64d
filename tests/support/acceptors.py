"""The backends of accept_drafts as one callable each, and the definition in Python's own numbers.

The definition is written apart from `steer_kernels.reference`: row by row, over lists.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import steer_kernels
from steer_kernels import accept_drafts
from steer_kernels.ops import accept_drafts as op_module

Accept = Callable[..., Tensor]

CUTS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.6, 0, 1.0, 0.0),
    (1.0, 5, 1.0, 0.0),
    (1.3, 90, 0.95, 0.0),  # past the list: the row is sorted
    (1.0, 0, 0.9, 0.0),
    (2.5, 0, 0.99, 0.0),  # past the list
    (3.0, 0, 1.0, 0.01),
    (0.9, 30, 0.8, 0.05),
]
PLAIN = CUTS[:3]


def _cuda(logits: Tensor, *args: object, **kwargs: object) -> Tensor:
    def there(value: object) -> object:
        return value.cuda() if isinstance(value, Tensor) else value

    given = [there(value) for value in (logits, *args)]
    return accept_drafts(*given, **{name: there(value) for name, value in kwargs.items()}).cpu()


def triton_accept(logits: Tensor, *args: object, **kwargs: object) -> Tensor:
    if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
        pytest.skip("needs triton, and no GPU: with one the kernel runs as 'cuda'")
    if logits.numel() > 10_000:
        pytest.skip("too large for Triton's interpreter")
    return op_module._cuda(logits, *args, **kwargs)


ACCEPTORS = ["reference", *(f"cpu-{isa}" for isa in steer_kernels.supported_cpu_isas())]
ACCEPTORS += ["triton", pytest.param("cuda", marks=pytest.mark.gpu)]


@contextmanager
def use_acceptor(name: str) -> Iterator[Accept]:
    """A callable like `accept_drafts` for CPU tensors."""
    others = {"reference": op_module._fallback, "triton": triton_accept, "cuda": _cuda}
    if name in others:
        yield others[name]
        return
    steer_kernels.set_cpu_isa(name.removeprefix("cpu-"))
    yield accept_drafts
    steer_kernels.set_cpu_isa(None)


# ---- the definition ---------------------------------------------------------------------------


def distribution(row: Tensor, cuts: tuple) -> list[float]:
    """Probabilities after temperature and cuts, by a sort and four loops."""
    temperature, top_k, top_p, min_p = cuts
    x = row.double().tolist()
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    weight = [math.exp((value - x[order[0]]) / temperature) for value in x]
    if 0 < top_k < len(x):
        order = [i for i in order if x[i] >= x[order[top_k - 1]]]
    if top_p < 1:
        total, through, nucleus = math.fsum(weight[i] for i in order), 0.0, []
        for i in order:
            if through < top_p * total:
                nucleus.append(i)
            through += weight[i]
        order = nucleus
    order = [i for i in order if weight[i] >= min_p * weight[order[0]]]
    total = math.fsum(weight[i] for i in order)
    p = [0.0] * len(x)
    for i in order:
        p[i] = weight[i] / total
    return p


def ratio(p: list[float], q: list[float], draft: int) -> float:
    """The probability with which the draft is accepted."""
    if q[draft] == 0:
        return 1.0 if p[draft] > 0 else 0.0
    return min(1.0, p[draft] / q[draft])


def rest(p: list[float], q: list[float]) -> list[float]:
    """The distribution that replaces a refused draft."""
    above = [max(0.0, a - b) for a, b in zip(p, q, strict=True)]
    total = math.fsum(above)
    return [a / total for a in above] if total > 0 else p


def log(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def pair(columns: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [V] of a large model, and of a small one that agrees with it by half."""
    generator = torch.Generator().manual_seed(seed)
    large = torch.randn(columns, generator=generator) * 3
    small = large * 0.7 + torch.randn(columns, generator=generator) * 2
    return large.to(dtype), small.to(dtype)
