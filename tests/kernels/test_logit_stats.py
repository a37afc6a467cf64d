"""logit_stats on every backend, against its float64 definition: shapes, values, special values."""

from __future__ import annotations

import math

import pytest
import torch
from support.backends import (
    DTYPES,
    INF,
    NAN,
    Run,
    assert_same_bits,
    check,
    expected_of_random,
    random_logits,
)
from support.tolerances import LOGIT_STATS, assert_close

from steer_kernels import LogitStats, reference

VOCABS = [1, 2, 31, 32, 33, 1000, 32000, 50257, 128256, 151936, 262144]
BATCHES = [0, 1, 2, 7, 64]


# ---- the definition itself -----------------------------------------------------------------


def test_definition_against_torch_and_arithmetic() -> None:
    logits = random_logits(5, 1000).double()
    stats = LogitStats(*reference.logit_stats(logits, 8, out_dtype=torch.float64))
    torch.testing.assert_close(stats.lse, torch.logsumexp(logits, -1))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(stats.entropy, entropy)
    values, ids = logits.topk(8)
    assert torch.equal(stats.topk_logits, values)
    assert torch.equal(stats.topk_ids, ids)
    # by hand: logits log 1, log 2, log 5 are the probabilities 1/8, 2/8, 5/8
    stats = LogitStats(*reference.logit_stats(torch.tensor([[1.0, 2.0, 5.0]]).log(), 2))
    bits = 1 / 8 * math.log(8) + 2 / 8 * math.log(4) + 5 / 8 * math.log(8 / 5)
    torch.testing.assert_close(stats.entropy, torch.tensor([bits]))
    torch.testing.assert_close(stats.max_prob, torch.tensor([5 / 8]))
    torch.testing.assert_close(stats.margin, torch.tensor([3 / 8]))
    torch.testing.assert_close(stats.logit_margin, torch.tensor([math.log(5 / 2)]))


# ---- values --------------------------------------------------------------------------------


def _shapes() -> list:
    params = []
    for columns in VOCABS:
        for rows in BATCHES:
            size = rows * columns
            mark = pytest.mark.exhaustive if size > 9_000_000 else pytest.mark.slow
            params.append(pytest.param(rows, columns, marks=mark if size > 300_000 else ()))
    return params


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "columns"), _shapes())
@pytest.mark.spread(6, ci=24)
def test_shapes_and_dtypes(run: Run, rows: int, columns: int, dtype: torch.dtype) -> None:
    k = min(8, columns)
    stats = run(random_logits(rows, columns, dtype), k)
    check(stats, None, k, expected=expected_of_random(rows, columns, dtype, k))


@pytest.mark.parametrize("k", [1, 2, 20, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.spread(3, ci=12)
def test_every_k(run: Run, k: int, dtype: torch.dtype) -> None:
    for columns in (64, 5000):
        logits = random_logits(2, columns, dtype)
        check(run(logits, k), logits, k)


def test_ascending_and_descending_rows(run: Run) -> None:
    """The best and the worst case of the running threshold, over several tiles."""
    up = torch.arange(9000.0)[None] / 128
    for logits in (up, up.flip(-1)):
        check(run(logits, 20), logits, 20)


def test_large_vocabulary_does_not_lose_precision(run: Run) -> None:
    """Equal logits add up to V exactly; a float32 running sum would be off by far more."""
    for columns in (4096, 262144):
        stats = run(torch.full((1, columns), 3.0), 2)
        assert abs(stats.entropy.item() - math.log(columns)) < 1e-6
        assert abs(stats.lse.item() - 3.0 - math.log(columns)) < 2e-6


def test_nearly_equal_logits_are_not_all_rounded_in_one_direction(run: Run) -> None:
    """Weights of 0.99999 round away the same part of a large sum, one after another."""
    for columns in (4096, 9000):
        logits = random_logits(1, columns) * 2.5e-7
        stats = run(logits, 2)
        assert abs(stats.lse.item() - math.log(columns)) < 1.5e-6
        assert abs(stats.entropy.item() - math.log(columns)) < 1.5e-6


def test_padded_head_never_wins_and_never_counts(run: Run) -> None:
    for pad in (1e4, INF, NAN, -INF):
        logits = random_logits(3, 1000)
        check_on = logits[:, :937].clone()
        logits[:, 937:] = pad
        check(run(logits, 8, 937), check_on, 8)


# ---- special values ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", ["one", "many", "all but k", "all but one"])
@pytest.mark.spread(3, ci=12)
def test_minus_infinity_contributes_nothing(run: Run, dtype: torch.dtype, masked: str) -> None:
    logits = random_logits(4, 3000, dtype)
    order = torch.randperm(3000)
    count = {"one": 1, "many": 2500, "all but k": 2992, "all but one": 2999}[masked]
    logits[:, order[:count]] = -INF
    stats = run(logits, 8)
    check(stats, logits, 8)
    # the same figures as of the unmasked elements alone
    rest = logits[:, order[count:].sort().values]
    alone = reference.logit_stats(rest, 1, out_dtype=torch.float64)
    assert_close("lse", stats.lse, alone[1], None, LOGIT_STATS["lse"]._replace(absolute=2e-6))
    assert_close("entropy", stats.entropy, alone[2], None, LOGIT_STATS["entropy"])
    if masked == "all but one":
        assert torch.equal(stats.entropy, torch.zeros(4))
        assert torch.equal(stats.lse, stats.max_logit)
        assert torch.equal(stats.margin, torch.ones(4))


def test_fewer_finite_elements_than_k(run: Run) -> None:
    """The list goes on with -inf elements in ascending order of column."""
    logits = torch.full((1, 5000), -INF)
    logits[0, 4999], logits[0, 2] = 1.0, 2.0
    stats = run(logits, 5)
    assert stats.topk_ids.tolist() == [[2, 4999, 0, 1, 3]]
    assert stats.topk_logits.tolist() == [[2.0, 1.0, -INF, -INF, -INF]]
    assert stats.topk_logprobs[0, 2:].tolist() == [-INF] * 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "poison",
    ["all -inf", "NaN first", "NaN last", "NaN inside", "NaN everywhere", "NaN and inf"],
)
@pytest.mark.spread(3, ci=12)
def test_invalid_rows_are_flagged_and_stay_alone(run: Run, dtype: torch.dtype, poison: str) -> None:
    logits = random_logits(3, 2500, dtype)
    clean = run(logits, 4)
    row = logits[1]
    if poison == "all -inf":
        row[:] = -INF
    elif poison == "NaN everywhere":
        row[:] = NAN
    else:
        row[{"first": 0, "last": -1, "inside": 1234, "inf": 77}[poison.split()[-1]]] = NAN
        if poison == "NaN and inf":
            row[2000] = INF
    stats = run(logits, 4)
    assert stats.valid.tolist() == [True, False, True]
    assert stats.topk_ids[1].tolist() == [0, 1, 2, 3]
    derived = [stats.topk_logprobs, stats.max_prob, stats.margin, stats.logit_margin]
    for field in (*stats[:4], *derived):
        assert field[1].isnan().all()
    keep = [0, 2]
    assert_same_bits(LogitStats(*(f[keep] for f in stats)), LogitStats(*(f[keep] for f in clean)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plus_infinity_is_one_hot(run: Run, dtype: torch.dtype) -> None:
    logits = random_logits(2, 2500, dtype)
    logits[0, 2100] = INF
    logits[1, [3, 2400]] = INF
    logits[:, 7] = -INF
    stats = run(logits, 3)
    check(stats, logits, 3)
    assert stats.lse.tolist() == [INF, INF]
    assert stats.topk_ids[:, 0].tolist() == [2100, 3]
    torch.testing.assert_close(stats.entropy, torch.tensor([0.0, math.log(2)]))
    torch.testing.assert_close(stats.max_prob, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(stats.margin, torch.tensor([1.0, 0.0]))
    assert stats.logit_margin.tolist() == [INF, 0.0]
    probs = stats.topk_logprobs.exp()
    torch.testing.assert_close(probs, torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_number_weighs_nothing_beside_infinity(run: Run, dtype: torch.dtype) -> None:
    logits = torch.full((1, 300), torch.finfo(dtype).max, dtype=dtype)
    logits[0, 20] = INF
    stats = run(logits, 3)
    check(stats, logits, 3)
    assert stats.entropy.tolist() == [0.0]


def test_shift_changes_nothing_but_the_level(run: Run) -> None:
    """Multiples of 1/64 stay exact at 1e4, so only the kernel could lose precision."""
    logits = (random_logits(3, 3001) * 64).round() / 64
    for masked in (False, True):
        if masked:
            logits[:, ::3] = -INF
        here, there = run(logits, 8), run(logits + 1e4, 8)
        assert_same_bits(
            here._replace(lse=there.lse),
            there._replace(max_logit=there.max_logit - 1e4, topk_logits=there.topk_logits - 1e4),
        )
        check(there, logits + 1e4, 8)


def test_extreme_finite_values(run: Run) -> None:
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[largest, -largest, 0.0, largest], [1e-45, -1e-45, 0.0, -0.0]])
    check(run(logits, 4), logits, 4)


@pytest.mark.parametrize("height", [0.0, 1.9, 2.1, 15.0, 90.0, 1e4])
@pytest.mark.parametrize("depth", [0.0, 39.0, 41.0, 200.0])
@pytest.mark.spread(3, ci=12)
def test_sums_need_no_luck_with_their_reference(run: Run, height: float, depth: float) -> None:
    """The C++ kernel sums relative to a sample of the row: the maximum is not in it, or far."""
    logits = random_logits(1, 8_300).div_(4)
    logits[0, 4096:8192] -= depth
    logits[0, 3_000] = float(logits.max()) + height
    check(run(logits, 5), logits, 5)
    logits[0, :4096] = -INF  # nothing finite among the columns that are sampled first
    check(run(logits, 5), logits, 5)
