"""decode_attention on every backend against its float64 definition, and what it must never read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attention_problems import index, problem
from support.backends import needs_extension
from support.tolerances import DECODE_ATTENTION, assert_close
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import steer_kernels
from steer_kernels import decode_attention, reference
from steer_kernels.ops import decode_attention as op_module

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BLOCK = 256  # keys; kBlockKeys in csrc/cpu/decode_attention.h
Attend = Callable[..., Tensor]


def backends() -> list:
    isas = steer_kernels.supported_cpu_isas()
    return ["reference", *(f"cpu-{isa}" for isa in isas)]


@pytest.fixture(params=backends())
def attend(request: pytest.FixtureRequest) -> Iterator[Attend]:
    if request.param == "reference":
        yield op_module._fallback
        return
    steer_kernels.set_cpu_isa(request.param.removeprefix("cpu-"))
    yield decode_attention
    steer_kernels.set_cpu_isa(None)


def by_torch(
    query: Tensor, keys: Tensor, values: Tensor, starts: Tensor, scale: float | None, window: int
) -> Tensor:
    """torch's own attention in the same dtype, with a mask; NaN where nothing is to be read."""
    group = query.shape[1] // keys.shape[1]
    at = (starts[:, None] + torch.arange(query.shape[2]))[:, None, :, None]
    key = torch.arange(keys.shape[2])
    mask = (key <= at) & (key > at - window)
    keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
    out = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    return out.transpose(1, 2)


def check(
    actual: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    scale: float | None = None,
    window: int | None = None,
) -> None:
    arguments = query, keys, values, starts, scale
    truth = reference.decode_attention(*arguments, window, out_dtype=torch.float64)
    assert actual.dtype == query.dtype
    assert actual.is_contiguous()
    chain = by_torch(*arguments, window or 2**40)
    chain = torch.where(chain.isnan(), truth, chain.double())
    assert_close("out", actual, truth, chain, DECODE_ATTENTION[query.dtype])


# ---- what comes out -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "sizes"),
    [((9, 3), (64, 64)), ((14, 2), (64, 64)), ((7, 1), (128, 128)), ((3, 3), (32, 32))],
    ids=str,
)
def test_shapes_of_real_models(
    attend: Attend, heads: tuple[int, int], sizes: tuple[int, int], dtype: torch.dtype
) -> None:
    arguments = problem(2, heads, 1, 300, sizes, dtype)
    starts = index(299, 70)
    check(attend(*arguments, starts), *arguments, starts)


@pytest.mark.parametrize("start", [0, 1, 14, 15, 16, BLOCK - 2, BLOCK - 1, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.spread(3, ci=12)
def test_lengths_at_the_edges_of_blocks(attend: Attend, start: int, queries: int) -> None:
    arguments = problem(1, (4, 2), queries, start + queries, (16, 16))
    check(attend(*arguments, index(start)), *arguments, index(start))


@pytest.mark.parametrize("window", [1, 2, 17, BLOCK, BLOCK + 1, 10_000])
def test_windows(attend: Attend, window: int) -> None:
    arguments = problem(3, (4, 2), 5, 2 * BLOCK + 9, (16, 8))
    starts = index(2 * BLOCK + 4, BLOCK - 2, 0)
    out = attend(*arguments, starts, None, window)
    check(out, *arguments, starts, None, window)


def test_grouped_heads_share_the_key_head_of_their_neighbours(attend: Attend) -> None:
    query, keys, values = problem(1, (6, 2), 1, 8)
    values = torch.zeros_like(values)
    values[:, 1] = 1.0
    out = attend(query, keys, values, index(7))
    assert out[0, 0, :3].eq(0).all()
    torch.testing.assert_close(out[0, 0, 3:], torch.ones(3, 16))


def test_scale_and_a_shift_of_all_scores(attend: Attend) -> None:
    query, keys, values = problem(1, (2, 1), 1, 50)
    check(attend(query, keys, values, index(49), 0.01), query, keys, values, index(49), 0.01)
    shift = 100.0 * query[0, 0, 0] / query[0, 0, 0].square().sum()
    shifted = attend(query[:, :1], keys + shift, values, index(49), 1.0)
    plain = attend(query[:, :1], keys, values, index(49), 1.0)
    torch.testing.assert_close(shifted, plain, atol=1e-4, rtol=0)


def test_one_key_far_above_the_others_takes_all(attend: Attend) -> None:
    query, keys, values = problem(1, (2, 1), 1, 2 * BLOCK)
    keys[0, 0, 300] = 1e4 * query[0, 0, 0]
    out = attend(query, keys, values, index(2 * BLOCK - 1))
    torch.testing.assert_close(out[0, 0, 0], values[0, 0, 300])


def test_nothing_to_read_gives_zeros(attend: Attend) -> None:
    query, keys, values = problem(2, (4, 2), 2, 0)
    assert attend(query, keys, values, index(0, 5)).eq(0).all()
    query, keys, values = problem(2, (4, 2), 2, 10)
    out = attend(query, keys, values, index(100, 3), None, 5)  # a window behind the last key
    assert out[0].eq(0).all()
    check(out, query, keys, values, index(100, 3), None, 5)
    keys[1] = -math.inf
    query = query.abs()
    assert attend(query, keys, values, index(0, 3))[1].eq(0).all()


def test_empty_batches_and_queries(attend: Attend) -> None:
    query, keys, values = problem(0)
    assert attend(query, keys, values, index()).shape == (0, 1, 6, 16)
    query, keys, values = problem(2, queries=0)
    assert attend(query, keys, values, index(0, 0)).shape == (2, 0, 6, 16)


# ---- NaN ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 20])
def test_what_no_query_reads_may_be_nan(
    attend: Attend, dtype: torch.dtype, window: int | None
) -> None:
    """Behind each row's end, and before its window, also within the block that is read."""
    starts = index(3, 0, BLOCK - 1, BLOCK + 40, 299)
    clean = problem(5, (6, 2), 1, 310, (16, 24), dtype)
    query, keys, values = (x.clone() for x in clean)
    for row, start in enumerate(starts.tolist()):
        first = 0 if window is None else max(0, start - window + 1)
        for buffer in (keys, values):
            buffer[row, :, start + 1 :] = math.nan
            buffer[row, :, :first] = math.nan
    out = attend(query, keys, values, starts, None, window)
    assert torch.equal(out, attend(*clean, starts, None, window))
    check(out, *clean, starts, None, window)


def test_a_later_token_that_is_nan_does_not_reach_an_earlier_one(attend: Attend) -> None:
    clean = problem(1, (6, 2), 4, 60)
    query, keys, values = (x.clone() for x in clean)
    for buffer in (keys, values):
        buffer[:, :, 52:] = math.nan
    out = attend(query, keys, values, index(50))
    assert torch.equal(out[:, :2], attend(*clean, index(50))[:, :2])
    assert out[:, 2:].isnan().all()


@pytest.mark.parametrize("at", [0, 17, 299])
def test_a_nan_that_is_read_is_seen(attend: Attend, at: int) -> None:
    query, keys, values = problem(2, (4, 2), 1, 300)
    keys[0, 1, at, 3] = math.nan
    out = attend(query, keys, values, index(299, 299))
    assert out[0, 0, 2:].isnan().all()
    assert not out[0, 0, :2].isnan().any()
    assert not out[1].isnan().any()


# ---- any layout -----------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    """The same elements in any order of dimensions, with gaps of NaN and an offset."""
    order = draw(st.permutations(range(3)))
    wide = [tensor.shape[dim] + draw(st.integers(0, 2)) for dim in (*order, 3)]
    offset = draw(st.sampled_from([0, 1, 8]))
    flat = torch.full((math.prod(wide) + offset,), math.nan, dtype=tensor.dtype)[offset:]
    view = flat.view(wide).permute(*(order.index(dim) for dim in range(3)), 3)
    view = view[tuple(slice(0, n) for n in tensor.shape)]
    return view.copy_(tensor)


@st.composite
def problems(draw: st.DrawFn) -> tuple:
    dtype = draw(st.sampled_from(DTYPES))
    batch, kv_heads, group = (draw(st.integers(1, n)) for n in (3, 3, 9))
    queries = draw(st.sampled_from([1, 1, 2, 5]))
    width = draw(st.sampled_from([1, 2, 15, 33, 64, 255, 257, 300]))
    sizes = tuple(draw(st.sampled_from([1, 3, 8, 16, 20, 64, 80])) for _ in range(2))
    seed = draw(st.integers(0, 99))
    tensors = problem(batch, (kv_heads * group, kv_heads), queries, width, sizes, dtype, seed)
    starts = torch.full((2 * batch,), -7)[:: draw(st.integers(1, 2))][:batch]
    starts.copy_(index(*(draw(st.integers(0, width + 3)) for _ in range(batch))))
    window = draw(st.sampled_from([None, 1, 9, 100]))
    scale = draw(st.sampled_from([None, 0.3]))
    return *(draw(layouts(tensor)) for tensor in tensors), starts, scale, window


@settings(max_examples=40, deadline=None)
@given(arguments=problems())
def test_any_layout_equals_the_definition(arguments: tuple) -> None:
    for isa in steer_kernels.supported_cpu_isas():
        steer_kernels.set_cpu_isa(isa)
        try:
            check(decode_attention(*arguments), *arguments)
        finally:
            steer_kernels.set_cpu_isa(None)


# ---- bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 300])
def test_a_row_alone_and_a_query_alone_give_the_same_bits(
    attend: Attend, dtype: torch.dtype, window: int | None
) -> None:
    query, keys, values = problem(4, (14, 2), 3, 700, (64, 64), dtype)
    starts = index(697, 3, 254, 511)
    together = attend(query, keys, values, starts, None, window)
    for b in range(4):
        row = slice(b, b + 1)
        ends = int(starts[b]) + 3
        own = keys[row, :, :ends], values[row, :, :ends]
        assert torch.equal(attend(query[row], *own, starts[row], None, window), together[row])
        for i in range(3):
            alone = attend(query[row, :, i : i + 1], *own, starts[row] + i, None, window)
            assert torch.equal(alone, together[row, i : i + 1])


@needs_extension
def test_threads_change_no_bit() -> None:
    for batch, starts in ((1, (4095,)), (3, (4095, 17, 900))):
        arguments = *problem(batch, (14, 2), 1, 4096, (64, 64)), index(*starts)
        torch.set_num_threads(1)
        one = decode_attention(*arguments)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(decode_attention(*arguments), one)
