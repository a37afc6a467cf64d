"""Attention of a part of a prompt: that of its definition, wherever the part begins."""

from __future__ import annotations

import pytest
import torch
from steer_decode.engines.hf.cpu.prompt_attention import part_attention
from torch import Tensor

from steer_kernels import reference

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def inputs(
    dtype: torch.dtype, heads: int, key_heads: int, start: int, new: int, rows: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and a buffer that holds NaN behind the last of their keys."""
    generator = torch.Generator().manual_seed(start + new)
    query = torch.randn(rows, heads, new, 16, generator=generator)
    keys, values = torch.randn(2, rows, key_heads, start + new + 9, 16, generator=generator)
    for buffer in (keys, values):
        buffer[:, :, start + new :] = torch.nan
    return query.to(dtype), keys.to(dtype), values.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("start", [0, 1, 63, 300])
@pytest.mark.parametrize("new", [17, 64])
@pytest.mark.few(18)
def test_equals_its_definition(
    dtype: torch.dtype, heads: tuple[int, int], start: int, new: int
) -> None:
    query, keys, values = inputs(dtype, *heads, start, new, rows=2)
    out = part_attention(query, keys, values, start, 0.3)
    starts = torch.full((2,), start)
    truth = reference.decode_attention(
        query, keys[:, :, : start + new], values[:, :, : start + new], starts, 0.3
    )
    assert out.dtype == dtype
    torch.testing.assert_close(out, truth, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])


def test_scores_of_any_size_are_merged() -> None:
    """The weights of past and part differ by more than float32 can hold, either way."""
    query, keys, values = inputs(torch.float32, 2, 2, 40, 20)
    for far in (slice(0, 40), slice(40, 60)):
        loud = keys.clone()
        loud[:, :, far] *= 1e3
        out = part_attention(query, loud, values, 40)
        truth = reference.decode_attention(
            query, loud[:, :, :60], values[:, :, :60], torch.tensor([40])
        )
        torch.testing.assert_close(out, truth, atol=1e-4, rtol=1e-4)
