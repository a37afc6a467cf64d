"""logit_stats on every backend: ties, memory layouts, determinism, and any case at all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.backends import (
    DTYPES,
    INF,
    NAN,
    Run,
    assert_same_bits,
    check,
    expected_of_random,
    needs_extension,
    random_logits,
)
from torch import Tensor

import steer_kernels
from steer_kernels import LogitStats, logit_stats

# ---- ties ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_equal_rows(run: Run, dtype: torch.dtype) -> None:
    for columns in (33, 4500):
        stats = run(torch.full((2, columns), -7.0, dtype=dtype), 33)
        assert stats.topk_ids.tolist() == [list(range(33))] * 2
        torch.testing.assert_close(stats.entropy, torch.full((2,), math.log(columns)))


def test_ties_across_the_k_boundary_and_across_tiles(run: Run) -> None:
    logits = torch.zeros(1, 9000)
    tied = [5, 2047, 2048, 4095, 4096, 4097, 8191, 8192, 8999]
    logits[0, tied] = 1.0
    for k in (1, 3, 4, 5, 8, 9):
        assert run(logits, k).topk_ids.tolist() == [tied[:k]]
    assert run(logits, 12).topk_ids.tolist() == [[*tied, 0, 1, 2]]


def test_few_distinct_values(run: Run) -> None:
    logits = torch.randint(0, 3, (3, 3000)).float()
    check(run(logits, 64), logits, 64)


def test_zeros_are_equal(run: Run) -> None:
    logits = torch.tensor([[-0.0, 0.0, -0.0, 0.0, -1.0]])
    stats = run(logits, 4)
    assert stats.topk_ids.tolist() == [[0, 1, 2, 3]]
    assert stats.max_logit.item() == 0.0
    logits = torch.full((1, 3000), -0.0)
    logits[0, 1::2] = 0.0
    assert run(logits, 8).topk_ids.tolist() == [list(range(8))]


# ---- layout and determinism ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_and_offsets_that_break_alignment(run: Run, dtype: torch.dtype) -> None:
    columns = 1203
    for offset in (0, 1, 7, 12):
        for row_stride in (columns, columns + 1, 1307):
            buffer = torch.full((offset + 3 * row_stride,), NAN, dtype=dtype)
            logits = buffer.as_strided((3, columns), (row_stride, 1), offset)
            logits.copy_(random_logits(3, columns, dtype))
            if row_stride > columns:
                assert logits.storage_offset() == offset
            check(run(logits, 8), None, 8, expected=expected_of_random(3, columns, dtype, 8))


def test_expanded_rows_and_single_columns(run: Run) -> None:
    row = random_logits(1, 700)
    shared = run(row.expand(3, 700), 8)
    assert_same_bits(shared, LogitStats(*(f.expand(3, *f.shape[1:]) for f in run(row, 8))))
    column = random_logits(4, 6)[:, 2:3]  # last stride 1, row stride 6
    check(run(column, 1), column, 1)
    column = random_logits(6, 4).t()[:, 2:3]  # last stride 4, which does not matter for V = 1
    check(run(column, 1), column, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_alone_gives_the_same_bits(run: Run, dtype: torch.dtype) -> None:
    for rows, columns in ((7, 1409), (2, 4999), (3, 50257)):
        logits = random_logits(rows, columns, dtype)
        logits[1, 9] = NAN
        together = run(logits, 20)
        for row in range(rows):
            alone = run(logits[row : row + 1], 20)
            assert_same_bits(alone, LogitStats(*(f[row : row + 1] for f in together)))


@needs_extension
@pytest.mark.parametrize("isa", steer_kernels.supported_cpu_isas())
def test_the_number_of_threads_changes_no_bit(isa: str) -> None:
    steer_kernels.set_cpu_isa(isa)
    try:
        for rows, columns in ((1, 151936), (5, 40001), (64, 292)):
            logits = random_logits(rows, columns, torch.bfloat16)  # bfloat16: many ties
            results = []
            for threads in (1, 2, 3, 5):
                torch.set_num_threads(threads)
                results.append(logit_stats(logits, 64))
            for other in results[1:]:
                assert_same_bits(results[0], other)
    finally:
        steer_kernels.set_cpu_isa(None)


def test_the_input_is_left_alone(run: Run) -> None:
    logits = random_logits(2, 1500)
    before = logits.clone()
    run(logits, 8)
    assert torch.equal(logits, before)


@pytest.mark.slow
@needs_extension
def test_offsets_beyond_32_bits() -> None:
    """Row 2 starts 2.2e9 elements into the buffer; the pages in between are never touched."""
    stride = 1_100_000_000
    buffer = torch.empty(2 * stride + 1000, dtype=torch.float16)
    logits = buffer.as_strided((3, 1000), (stride, 1), 0)
    logits.copy_(random_logits(3, 1000, torch.float16))
    check(logit_stats(logits, 8), logits, 8)


# ---- hypothesis ----------------------------------------------------------------------------


SPECIAL = st.sampled_from([0.0, -0.0, INF, -INF, NAN, 1.0, -1e4, 1e4, 88.0, -88.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, int | None]:
    """Logits with any layout and any mix of special values, k, and vocab_size."""
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(1, 300))
    padding, offset = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    stride = columns + padding
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    buffer = torch.randn(offset + rows * stride + 1, generator=generator)
    buffer *= draw(st.sampled_from([0.1, 3.0, 50.0]))
    if draw(st.booleans()):
        buffer.round_()  # ties
    for _ in range(draw(st.integers(0, 4))):
        share = draw(st.sampled_from([0.01, 0.3, 0.99]))
        hit = torch.rand(buffer.shape, generator=generator) < share
        buffer[hit] = draw(SPECIAL)
    buffer = buffer.to(draw(st.sampled_from(DTYPES)))
    logits = buffer.as_strided((rows, columns), (stride, 1), offset)
    vocab_size = draw(st.none() | st.integers(1, columns))
    k = draw(st.integers(1, min(64, vocab_size or columns)))
    return logits, k, vocab_size


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_any_case(run: Run, case: tuple[Tensor, int, int | None]) -> None:
    logits, k, vocab_size = case
    check(run(logits, k, vocab_size), logits, k, vocab_size)


@pytest.mark.slow
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
@pytest.mark.parametrize("run", ["triton"], indirect=True)
def test_a_few_cases_when_interpreted(run: Run, case: tuple[Tensor, int, int | None]) -> None:
    logits, k, vocab_size = case
    check(run(logits, k, vocab_size), logits, k, vocab_size)
