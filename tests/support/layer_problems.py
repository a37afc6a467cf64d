"""Cases of `steer_kernels.layers`, and what transformers makes of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPSILON = 1e-6
# Of the dtype's own roundings, which follow one another, and some of float32.
ROUNDING = {torch.float32: 2.0**-21, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def drawn(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator)).to(dtype)


def sums(rows: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, residual and a weight."""
    x, residual = drawn(rows, size, dtype=dtype), drawn(rows, size, dtype=dtype, scale=3.0)
    return x, residual, 1.0 + drawn(size, dtype=dtype, scale=0.2)


@torch.no_grad()
def normed(x: Tensor, weight: Tensor) -> Tensor:
    """By the norm of transformers."""
    norm = LlamaRMSNorm(x.shape[-1], EPSILON).to(x.dtype)
    norm.weight.copy_(weight)
    return norm(x)


def gates(rows: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gate and rest of an MLP; the gate's exponential overflows and vanishes."""
    gate = drawn(rows, size, dtype=dtype, scale=4.0)
    gate[0, :3] = torch.tensor([100.0, -100.0, 0.0])
    return gate, drawn(rows, size + 1, dtype=dtype)[:, :size].contiguous()


def product(gate: Tensor, up: Tensor) -> Tensor:
    """By transformers."""
    return silu(gate) * up


class Heads:
    """Three entries of two tokens, out of order and ragged, and a poisoned cache of five rows."""

    def __init__(
        self, dtype: torch.dtype, size: int = 16, values: int = 24, norms: bool = False
    ) -> None:
        batch, tokens, heads, groups = 3, 2, 4, 2
        self.q = drawn(batch, tokens, heads, size, dtype=dtype)
        self.k = drawn(batch, tokens, groups, size, dtype=dtype, scale=2.0)
        self.v = drawn(batch, tokens, groups, values, dtype=dtype)
        angle = drawn(batch, tokens, size, dtype=torch.float32, scale=3.0)
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)
        cache = torch.full((5, groups, 9, size + values), torch.nan, dtype=dtype)
        self.caches = [part.contiguous() for part in cache.split((size, values), -1)]
        self.rows, self.starts = torch.tensor([3, 0, 4]), torch.tensor([5, 0, 7])
        self.counts = torch.tensor([2, 0, 2])
        weights = [1.0 + drawn(n, size, dtype=dtype, scale=0.2)[0] for n in (2, 3)]
        self.norms = (weights[0], weights[1]) if norms else None

    def arguments(self) -> tuple:
        at = self.rows, self.starts, self.counts
        return (
            self.q, self.k, self.v, self.cos, self.sin, *self.caches, *at, self.norms, EPSILON
        )  # fmt: skip

    def by_transformers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, and the caches after the write."""
        q, k = self.q, self.k
        if self.norms is not None:
            q, k = (normed(x, w) for x, w in zip((q, k), self.norms, strict=True))
        q, k = apply_rotary_pos_emb(q, k, self.cos, self.sin, unsqueeze_dim=2)
        caches = [cache.clone() for cache in self.caches]
        for b in range(3):
            for i in range(int(self.counts[b])):
                at = int(self.rows[b]), slice(None), int(self.starts[b]) + i
                caches[0][at], caches[1][at] = k[b, i], self.v[b, i]
        return q, caches[0], caches[1]


def assert_near(found: Tensor, expected: Tensor, roundings: float = 1.0) -> None:
    """Equal up to roundings of the dtype; NaN where NaN is."""
    assert found.dtype == expected.dtype
    bound = roundings * ROUNDING[found.dtype]
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=bound, atol=bound, equal_nan=True
    )
