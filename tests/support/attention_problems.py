"""Cases of decode attention."""

from __future__ import annotations

import torch
from torch import Tensor


def problem(
    batch: int = 2,
    heads: tuple[int, int] = (6, 2),
    queries: int = 1,
    width: int = 40,
    sizes: tuple[int, int] = (16, 16),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, keys and values; the keys point in few directions, so that some scores stand out."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads[0], queries, sizes[0], generator=generator)
    keys = torch.randn(batch, heads[1], width, sizes[0], generator=generator)
    values = torch.randn(batch, heads[1], width, sizes[1], generator=generator)
    return query.to(dtype), (2 * keys).to(dtype), values.to(dtype)


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
