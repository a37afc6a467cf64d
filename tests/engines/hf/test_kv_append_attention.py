"""kv_append_ where it is used: under an attention that rolls back, over ragged rows of a cache."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steer_kernels import kv_append_

KV_HEADS, QUERY_HEADS, SIZE, CAPACITY = 2, 6, 8, 24
DTYPES = [torch.float32, torch.bfloat16]


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of [H, T, SIZE] at these positions, in the dtype of x."""
    half = SIZE // 2
    angle = positions[:, None] * 100.0 ** (-torch.arange(half) / half)
    a, b = x.float().split(half, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


class Layer:
    """One attention layer with grouped heads and a poisoned, preallocated cache of four rows."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.cache = [
            torch.full((4, KV_HEADS, CAPACITY, SIZE), math.nan, dtype=dtype) for _ in range(2)
        ]

    def append(self, rows: list[int], starts: list[int], texts: list[list[tuple[Tensor, ...]]]):
        """Appends texts[b], a list of (key, value) tokens, to each row; the padding is NaN."""
        longest = max(map(len, texts))
        new = [
            torch.full((len(rows), KV_HEADS, longest, SIZE), math.nan, dtype=c.dtype)
            for c in self.cache
        ]
        for b, tokens in enumerate(texts):
            for i, pair in enumerate(tokens):
                for side in (0, 1):
                    new[side][b, :, i] = pair[side]
        index = [torch.tensor(v) for v in (rows, starts, [len(t) for t in texts])]
        kv_append_(*self.cache, *new, *index)

    def attend(self, row: int, query: Tensor, start: int, end: int) -> Tensor:
        k, v = (c[row : row + 1, :, start:end] for c in self.cache)
        return scaled_dot_product_attention(query[None], k, v, enable_gqa=True)


def token(position: int, text: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * text + position)
    k, v = torch.randn(2, KV_HEADS, 1, SIZE, generator=generator).to(dtype)
    return rotate(k, torch.tensor([position]))[:, 0], v[:, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_roll_back_and_append_again_equals_a_fresh_prefill(dtype: torch.dtype) -> None:
    draft = [token(i, 1, dtype) for i in range(17)]
    final = draft[:7] + [token(i, 2, dtype) for i in range(7, 12)]
    used, fresh = Layer(dtype), Layer(dtype)
    used.append([2], [0], [draft[:10]])
    used.append([2], [10], [draft[10:]])  # a long draft, of which 7 tokens stay
    used.append([2], [7], [final[7:]])
    fresh.append([2], [0], [final])
    query = torch.randn(QUERY_HEADS, 1, SIZE).to(dtype)
    for side in (0, 1):
        assert torch.equal(used.cache[side][2, :, :12], fresh.cache[side][2, :, :12])
    assert torch.equal(used.attend(2, query, 0, 12), fresh.attend(2, query, 0, 12))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poison_in_the_tail_and_in_the_padding_never_leaks(dtype: torch.dtype) -> None:
    layer = Layer(dtype)
    rows, lengths = [3, 0, 1], [5, 1, 9]
    layer.append(
        rows,
        [0, 0, 0],
        [[token(i, r, dtype) for i in range(n)] for r, n in zip(rows, lengths, strict=True)],
    )
    query = torch.randn(QUERY_HEADS, 1, SIZE).to(dtype)
    for row, length in zip(rows, lengths, strict=True):
        for cache in layer.cache:
            assert not cache[row, :, :length].isnan().any()
            assert cache[row, :, length:].isnan().all()
        out = layer.attend(row, query, 0, length)
        assert not out.isnan().any()
        # a group of three query heads shares a key head; each against its own arithmetic
        k, v = (c[row].float()[:, :length].repeat_interleave(3, 0) for c in layer.cache)
        weights = (query.float() @ k.mT / math.sqrt(SIZE)).softmax(-1)
        torch.testing.assert_close(out[0].float(), weights @ v, atol=2e-2, rtol=2e-2)
    assert all(cache[2].isnan().all() for cache in layer.cache)


def test_positions_differ_from_slots() -> None:
    """A left-padded row keeps position p in slot p + pad: the op knows slots only."""
    layer, pad, length = Layer(torch.float32), 6, 9
    text = [token(i, 1, torch.float32) for i in range(length)]
    layer.append([0, 1], [0, pad], [text, text])
    query = rotate(torch.randn(QUERY_HEADS, 1, SIZE), torch.tensor([length]))
    plain = layer.attend(0, query, 0, length)
    torch.testing.assert_close(layer.attend(1, query, pad, pad + length), plain)
    assert all(cache[1, :, :pad].isnan().all() for cache in layer.cache)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_interleaving_of_writes_and_roll_backs(data: st.DataObject) -> None:
    """Rows written and rolled back in any order hold what was last written, and no more."""
    layer = Layer(torch.float32)
    model: list[list[tuple[Tensor, ...]]] = [[] for _ in range(4)]
    reached = [0] * 4
    for step in range(data.draw(st.integers(1, 6))):
        rows = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        texts = []
        for row in rows:
            del model[row][data.draw(st.integers(0, len(model[row]))) :]
            room = min(5, CAPACITY - len(model[row]))
            count = data.draw(st.integers(0, room))
            texts.append([token(i, 10 * step + row, torch.float32) for i in range(count)])
        layer.append(rows, [len(model[row]) for row in rows], texts)
        for row, tokens in zip(rows, texts, strict=True):
            model[row] += tokens
            reached[row] = max(reached[row], len(model[row]))
    for row in range(4):
        for side, cache in enumerate(layer.cache):
            for i, pair in enumerate(model[row]):
                assert torch.equal(cache[row, :, i], pair[side])
            assert cache[row, :, reached[row] :].isnan().all()
