"""Cases of ``kv_append_``."""

from __future__ import annotations

import torch
from torch import Tensor


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bytes, so that NaN equals NaN."""
    return tensor.contiguous().view(torch.uint8)


def filled(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Arbitrary bytes: a copy keeps NaN payloads and signs of zero too."""
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (*shape[:-1], shape[-1] * size), generator=generator)
    return raw.to(torch.uint8).view(dtype)


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def problem(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Three rows of the batch into five rows of the cache, out of order and ragged."""
    return [
        filled((5, 2, 9, 16), dtype, 1),
        filled((5, 2, 9, 24), dtype, 2),
        filled((3, 2, 4, 16), dtype, 3),
        filled((3, 2, 4, 24), dtype, 4),
        index(3, 0, 4),
        index(5, 0, 7),
        index(4, 0, 2),
    ]


ROWS, STARTS, COUNTS = index(3, 0, 4), index(5, 0, 7), index(4, 0, 2)
