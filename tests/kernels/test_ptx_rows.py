"""`csrc/cuda/rows.cu` as nvcc compiles it: PTX run on the CPU against the float64 definitions."""

from __future__ import annotations

import pytest
import torch
from support.backends import INF, NAN, assert_same_bits, check, random_logits
from support.emulated_cuda import needs_nvcc
from support.emulated_rows import Rows
from torch import Tensor

from steer_kernels import LogitStats, reference

pytestmark = needs_nvcc
slow = pytest.mark.slow
FULL = 151936
DTYPES = [torch.bfloat16, pytest.param(torch.float32, marks=slow),
          pytest.param(torch.float16, marks=slow)]  # fmt: skip


def rows(
    dtype: torch.dtype, vocab: int, offset: int = 0, scale: float = 4.0, seed: int = 0
) -> Tensor:
    """Two rows of logits in a buffer of NaN that ends where the last of them ends."""
    buffer = torch.full((offset + 2 * vocab + 3,), NAN, dtype=dtype)
    view = buffer.as_strided((2, vocab), (vocab + 3, 1), offset)
    generator = torch.Generator().manual_seed(seed)
    return view.copy_((torch.randn(2, vocab, generator=generator) * scale).to(dtype))


def stats(logits: Tensor, k: int = 20, vocab: int | None = None, **how: int) -> LogitStats:
    """The figures, checked."""
    found = LogitStats(*Rows(logits, k, vocab, **how).run())
    check(found, logits, k, vocab)
    return found


def sampled(logits: Tensor, uniform: Tensor, temperature: float, **how: int) -> None:
    k = min(20, logits.shape[1])
    out = Rows(logits, k, uniform=uniform, temperature=temperature, **how).run()
    truth = reference.sample_logits(logits, uniform, temperature, k=k)
    check(LogitStats(*out[:6]), logits, k)
    assert torch.equal(out[6], truth[6])
    torch.testing.assert_close(out[7], truth[7], atol=2e-6, rtol=2e-6, equal_nan=True)


# ---- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", [90, pytest.param(80, marks=slow)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logit_stats(dtype: torch.dtype, capability: int) -> None:
    """Rows on and off 16 bytes, few tiles and many, one warp a row and several."""
    cases = ((97, 0), (300, 1), (2500, 3), (5 * 1024, 0), (9 * 1024 + 7, 6))
    for seed, (vocab, offset) in enumerate(cases):
        logits = rows(dtype, vocab, offset, seed=seed)
        stats(logits, capability=capability, seed=seed, multiprocessors=1 + seed % 2)


@pytest.mark.parametrize(
    ("vocab", "k"), [(1, 1), (2, 2), (31, 20), (32, 32), (33, 1), (64, 64), (1025, 64)]
)
def test_small_rows(vocab: int, k: int) -> None:
    stats(rows(torch.bfloat16, vocab, offset=vocab % 8), k)


def test_rows_that_are_not_valid() -> None:
    logits = torch.randn(9, 300).bfloat16()
    logits[0, 299], logits[1], logits[2, 7], logits[3, ::2] = NAN, -INF, INF, -INF
    logits[4], logits[5, :290], logits[6, 100], logits[7, 0] = 1.5, -INF, NAN, NAN
    logits[8, 295:] = NAN
    stats(logits, vocab=290)
    stats(logits.float(), vocab=290)


def test_negative_not_a_number() -> None:
    """Below all numbers if it were one, and seen all the same."""
    logits = torch.randn(2, 300)
    logits[0, 5] = -NAN
    assert torch.signbit(logits[0, 5])
    stats(logits)


def test_infinity_beside_the_largest_number() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        logits = torch.full((3, 300), torch.finfo(dtype).max, dtype=dtype)
        logits[0, 7], logits[1, [3, 200]], logits[2, 200:] = INF, INF, -torch.finfo(dtype).max
        found = stats(logits)
        expected = torch.tensor([1.0, 2.0, 200.0]).log()
        torch.testing.assert_close(found.entropy, expected)


def test_a_shift_of_a_row_changes_no_entropy() -> None:
    logits = rows(torch.float32, 3000)
    logits = (logits * 64).round() / 64  # exact at 1e4 too
    before, after = stats(logits), stats(logits + 16384)
    torch.testing.assert_close(before.entropy, after.entropy, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab", [300, pytest.param(40 * 1024 + 5, marks=slow)])
def test_ties(vocab: int) -> None:
    """All equal; both zeros; few values; few columns that are not masked, and few that are."""
    logits = torch.zeros(5, vocab, dtype=torch.bfloat16)
    logits[1, ::2] = -0.0
    logits[2] = (torch.arange(vocab) * 7 % 3).bfloat16()
    logits[3] = torch.where(torch.arange(vocab) % 97 == 5, 1.0, -INF)
    logits[4] = torch.where(torch.arange(vocab) % 97 == 5, -INF, -3.0)
    for k in (1, 20, 64):
        stats(logits, k)


@slow
def test_a_list_that_is_overrun() -> None:
    """Rising rows: every tile exceeds those before; and a tile that has the whole list."""
    logits = torch.arange(20000).float().repeat(2, 1)
    logits[1] = torch.randn(20000)
    logits[1, 9000:9100] = torch.arange(100) + 10.0
    stats(logits, 64)
    stats(-logits, 64)


@slow
def test_more_tiles_than_are_looked_at_together() -> None:
    logits = torch.randn(2, 300 * 1024 + 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    logits[1] = logits[1].sort().values
    logits[0, -70:] = 9.0
    stats(logits, 64, multiprocessors=2)


def test_the_bits_of_a_row_do_not_depend_on_where_it_lies_or_who_reads_it() -> None:
    logits = random_logits(3, 5000).bfloat16()
    alone = LogitStats(*Rows(logits[1:2].clone()).run())
    together = LogitStats(*Rows(logits, multiprocessors=2, seed=3).run())
    assert_same_bits(alone, LogitStats(*(field[1:2] for field in together)))
    for offset in (1, 2, 5):
        moved = torch.zeros(5008, dtype=torch.bfloat16)[offset : offset + 5000].copy_(logits[1])
        assert_same_bits(alone, LogitStats(*Rows(moved[None]).run()))


@slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logit_stats_of_a_whole_vocabulary(dtype: torch.dtype) -> None:
    stats(rows(dtype, FULL)[1:], multiprocessors=16)


# ---- the token -----------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", [90, pytest.param(80, marks=slow)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.7, 1.0, pytest.param(0.0, marks=slow)])
def test_sample_logits(dtype: torch.dtype, temperature: float, capability: int) -> None:
    uniform = torch.tensor([0.3, 0.81], dtype=torch.float64)
    for vocab, offset in ((97, 1), (9 * 1024 + 7, 0)):
        logits = rows(dtype, vocab, offset, seed=vocab)
        sampled(logits, uniform, temperature, capability=capability)


@pytest.mark.slow
def test_where_the_token_lies() -> None:
    """At the ends of a vector, a lane, a tile and the row, by numbers on either side of each."""
    vocab = 2100
    at = torch.tensor([0, 1, 7, 8, 255, 256, 1023, 1024, 1031, 2047, 2048, vocab - 1])
    at = at.repeat_interleave(2).double()
    uniform = (at + torch.tensor([0.01, 0.99]).repeat(12)) / vocab
    sampled(torch.zeros(24, vocab, dtype=torch.bfloat16), uniform, 3.0)


@pytest.mark.slow
def test_tokens_of_masks_and_infinities() -> None:
    logits = torch.full((6, 3000), -INF)
    logits[0, 2999], logits[1, [5, 2000]], logits[2, ::2] = 3.0, 1.0, 0.0
    logits[3], logits[4, [7, 1500]], logits[5, 9] = -INF, INF, NAN
    uniform = torch.tensor([0.9, 0.6, 0.999, 0.5, 0.5, 0.5], dtype=torch.float64)
    for temperature in (1.0, 0.3, 0.0):
        sampled(logits, uniform, temperature)


def test_numbers_of_the_host() -> None:
    """Single precision with a stride; and what is no number for a draw."""
    logits = rows(torch.bfloat16, 300)
    uniform = torch.tensor([0.25, 9.0, 0.75, 9.0])[::2]
    sampled(logits, uniform, 0.7)
    for bad in (-0.1, 1.0, NAN):
        out = Rows(logits, uniform=torch.tensor([0.5, bad]), temperature=1.0).run()
        assert out[6][1] == 0
        assert out[7].isnan().tolist() == [False, True]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in (1, 2))])
def test_a_number_close_to_one_draws_a_token_with_a_weight(seed: int) -> None:
    logits = rows(torch.bfloat16, 1300, seed=seed)
    logits[:, 1290:] = -INF
    uniform = torch.full((2,), 1 - 2.0**-53, dtype=torch.float64)
    out = Rows(logits, uniform=uniform, temperature=0.7).run()
    assert (out[6] < 1290).all()
    assert out[7].isfinite().all()


# ---- cuts ----------------------------------------------------------------------------------------

DECIDED = [(1.0, 0, 0.5, 0.0), (0.6, 20, 0.95, 0.0), (1.0, 50, 1.0, 0.0), (0.7, 5, 1.0, 0.02),
           (1.0, 0, 1.0, 0.2), (0.5, 0, 0.8, 0.1), (1.0, 1, 1.0, 0.0)]  # fmt: skip


def cut(logits: Tensor, uniform: Tensor, cuts: tuple, k: int = 20, **how: int) -> Tensor:
    """The tokens, checked where they are not -1, as are the log-probabilities."""
    temperature, *rest = cuts
    out = Rows(logits, k, uniform=uniform, temperature=temperature, cuts=tuple(rest), **how).run()
    truth = reference.sample_logits(logits, uniform, *cuts, k=k)
    check(LogitStats(*out[:6]), logits, k)
    here = out[6] >= 0
    assert torch.equal(out[6][here], truth[6][here])
    torch.testing.assert_close(out[7][here], truth[7][here], atol=2e-6, rtol=2e-6, equal_nan=True)
    return out[6]


@pytest.mark.parametrize("cuts", DECIDED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.few(2)
def test_cuts_that_the_list_decides(dtype: torch.dtype, cuts: tuple) -> None:
    uniform = torch.tensor([0.3, 0.81], dtype=torch.float64)
    for k in (1, 20):
        logits = rows(dtype, 2100, offset=k % 8, seed=k, scale=16.0)
        assert (cut(logits, uniform, cuts, k) >= 0).all()


@pytest.mark.slow
def test_every_token_of_a_nucleus() -> None:
    """By a number in the middle of each share, in columns' order, on a row with ties."""
    row = torch.full((300,), -9.0)
    row[torch.arange(3, 300, 31)] = torch.tensor([2.0, 0.5, 2.0, 1.0, 0.5, 3.0, 1.0, 0.0, 2.0, 0.5])
    for cuts in ((1.0, 4, 1.0, 0.0), (2.0, 0, 0.75, 0.0), (1.0, 0, 1.0, 0.1), (1.0, 3, 0.6, 0.0)):
        kept = reference.kept(row[None].double(), *cuts)[0]
        share = torch.where(kept, (row.double() / cuts[0]).exp(), 0.0)
        share /= share.sum()
        at = kept.nonzero()[:, 0]
        uniform = (share.cumsum(0) - share / 2)[at]
        found = cut(row.bfloat16().repeat(len(at), 1), uniform, cuts)
        assert torch.equal(found, at)


def test_what_the_list_does_not_decide_is_left_open() -> None:
    """A nucleus beyond the list, more than top_k that tie, a top_k of 64 and more."""
    uniform = torch.tensor([0.3, 0.81], dtype=torch.float64)
    logits = rows(torch.bfloat16, 2100)
    for cuts in ((3.0, 0, 0.95, 0.0), (1.0, 64, 1.0, 0.0), (3.0, 100, 0.9, 0.02)):
        assert (cut(logits, uniform, cuts) == -1).all()
    logits[0] = 1.0
    logits[1, [5, 17]] = 50.0
    assert cut(logits, uniform, (1.0, 1, 1.0, 0.0)).lt(0).tolist() == [True, False]
    few = logits[:, :30].contiguous()  # the list has all there is
    assert (cut(few, uniform, (3.0, 0, 0.95, 0.0)) >= 0).all()


@pytest.mark.slow
def test_cuts_of_masks_and_of_rows_that_are_not_valid() -> None:
    logits = torch.full((5, 3000), -INF)
    logits[0, 2999], logits[1, [5, 2000]], logits[2, :80] = 3.0, 1.0, 0.0
    logits[4, [7, 1500]] = INF
    uniform = torch.tensor([0.9, 0.6, 0.999, 0.5, 0.5], dtype=torch.float64)
    tokens = cut(logits, uniform, (0.7, 0, 0.9, 0.0))
    assert tokens.lt(0).tolist() == [False, False, True, False, False]
    assert tokens[3] == 0


@slow
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sample_logits_of_a_whole_vocabulary(temperature: float) -> None:
    uniform = torch.tensor([0.81], dtype=torch.float64)
    sampled(rows(torch.bfloat16, FULL)[1:], uniform, temperature, multiprocessors=16)


@slow
def test_cuts_of_a_whole_vocabulary() -> None:
    uniform, logits = torch.tensor([0.81], dtype=torch.float64), rows(torch.bfloat16, FULL)[1:]
    for cuts in ((0.6, 20, 0.95, 0.0), (0.4, 0, 0.9, 0.0)):
        assert cut(logits, uniform, cuts, multiprocessors=16) >= 0
