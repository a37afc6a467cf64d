"""sample_logits on every backend: the distribution, the cuts, the same token everywhere.

Uniforms are taken from the middle of a token's share of the line, so that the rounding of a
backend's sums cannot move them over a boundary; except where the point is that any uniform gives a
token in range.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from backends import DTYPES, INF, NAN, assert_same_bits, needs_extension, random_logits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import steer_kernels
from steer_kernels import SampledLogits, logit_stats, reference, sample_logits
from steer_kernels.ops import sample_logits as op_module

CUTS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.6, 0, 1.0, 0.0),
    (1.0, 5, 1.0, 0.0),
    (0.8, 1, 1.0, 0.0),
    (1.3, 64, 1.0, 0.0),
    (1.3, 90, 0.95, 0.0),  # past the list: the row is sorted
    (1.0, 0, 0.9, 0.0),
    (2.5, 0, 0.99, 0.0),  # past the list
    (1.0, 0, 1e-6, 0.0),
    (1.0, 0, 1.0, 0.1),
    (3.0, 0, 1.0, 0.01),
    (0.9, 30, 0.8, 0.05),
]
PLAIN = CUTS[:3]

Sample = Callable[..., SampledLogits]


def _reference(*args: object, **kwargs: object) -> SampledLogits:
    return SampledLogits(*op_module._cpu_fallback(*args, **kwargs))


def _cuda(logits: Tensor, uniform: Tensor, *args: object, **kwargs: object) -> SampledLogits:
    out = sample_logits(logits.cuda(), uniform.cuda(), *args, **kwargs)
    return SampledLogits(*(field.cpu() for field in out))


def _triton(logits: Tensor, uniform: Tensor, *args: object, **kwargs: object) -> SampledLogits:
    if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
        pytest.skip("needs triton, and no GPU: with one the kernel runs as 'cuda'")
    if logits.numel() > 10_000:
        pytest.skip("too large for Triton's interpreter")
    return SampledLogits(*op_module._cuda(logits, uniform, *args, **kwargs))


_BACKENDS = ["reference", *(f"cpu-{isa}" for isa in steer_kernels.supported_cpu_isas())]
_BACKENDS += ["triton", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=_BACKENDS)
def sample(request: pytest.FixtureRequest) -> Iterator[Sample]:
    """`sample_logits` for CPU tensors, once on each backend."""
    others = {"reference": _reference, "triton": _triton, "cuda": _cuda}
    if request.param in others:
        yield others[request.param]
        return
    steer_kernels.set_cpu_isa(request.param.removeprefix("cpu-"))
    yield sample_logits
    steer_kernels.set_cpu_isa(None)


def probabilities(row: Tensor, cuts: tuple) -> Tensor:
    """Float64 probabilities [V] of the distribution that `cuts` make of one row."""
    x = row.double()[None]
    d = (x - x.max()) / cuts[0]
    return d.where(reference.kept(x, *cuts), -INF).softmax(-1)[0]


def middles(p: Tensor, least: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Tokens with a share of at least `least`, and the uniform in the middle of each share."""
    tokens = (p > least).nonzero()[:, 0]
    return tokens, (p.cumsum(-1) - p / 2)[tokens]


# ---- the token and its probability ---------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_every_token_is_found_where_its_share_lies(
    sample: Sample, cuts: tuple, dtype: torch.dtype
) -> None:
    """The same uniform gives the same token on every backend, as they all meet this."""
    for columns, rows in ((33, 9), (300, 9), (4501, 1)):  # what Triton's interpreter bears
        row = random_logits(1, columns, dtype, seed=columns)[0]
        p = probabilities(row, cuts)
        tokens, uniform = middles(p)
        rows = min(rows, 3) if sample is _triton else rows
        tokens, uniform = tokens[:: len(tokens) // rows + 1], uniform[:: len(tokens) // rows + 1]
        out = sample(row.expand(len(tokens), columns), uniform, *cuts)
        assert torch.equal(out.token, tokens)
        expected = p[tokens].log()
        torch.testing.assert_close(out.logprob.double(), expected, atol=2e-6, rtol=2e-6)


@needs_extension
@pytest.mark.parametrize("isa", steer_kernels.supported_cpu_isas())
@pytest.mark.parametrize("cuts", [*PLAIN, (1.0, 0, 0.9, 0.0), (1.2, 500, 1.0, 0.0)], ids=str)
def test_full_vocabulary(isa: str, cuts: tuple) -> None:
    steer_kernels.set_cpu_isa(isa)
    try:
        logits = random_logits(2, 151_936, torch.bfloat16)
        for row in logits:
            tokens, uniform = middles(probabilities(row, cuts), 1e-3)
            out = sample_logits(row.expand(len(tokens), -1), uniform, *cuts)
            assert torch.equal(out.token, tokens)
    finally:
        steer_kernels.set_cpu_isa(None)


def test_greedy_is_the_first_of_the_largest(sample: Sample) -> None:
    logits = random_logits(3, 500)
    logits[1, [40, 77]] = 50.0
    uniform = torch.tensor([0.0, 0.5, 0.999])
    out = sample(logits, uniform, 0.0, 3, 0.5, 0.5)
    assert torch.equal(out.token, out.topk_ids[:, 0])
    assert out.token[1] == 40
    torch.testing.assert_close(out.logprob, out.stats.topk_logprobs[:, 0])


def test_the_statistics_are_those_of_logit_stats(sample: Sample) -> None:
    logits = random_logits(3, 700, torch.bfloat16)
    logits[1, 5] = NAN
    uniform = torch.rand(3)
    first = sample(logits, uniform, 1.0, k=20, vocab_size=650).stats
    for cuts in CUTS[1:]:
        assert_same_bits(sample(logits, uniform, *cuts, k=20, vocab_size=650).stats, first)
    if sample is sample_logits:
        assert_same_bits(logit_stats(logits, 20, 650), first)


@pytest.mark.parametrize("cuts", [*PLAIN, (1.5, 40, 1.0, 0.0), (1.5, 0, 0.8, 0.0)], ids=str)
def test_chi_square_with_tail_buckets(sample: Sample, cuts: tuple) -> None:
    """Counts of 20 000 draws; tokens with fewer than 25 expected share buckets of at least 25."""
    if sample is _triton and cuts not in PLAIN:
        pytest.skip("a hundred rows of cuts take Triton's interpreter a minute")
    row = random_logits(1, 200)[0] / 2
    draws = 20_000 if sample is not _triton else 100
    p = probabilities(row, cuts)
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(draws, generator=generator, dtype=torch.float64)
    tokens = sample(row.expand(draws, -1), uniform, *cuts).token
    expected, order = (p * draws).sort(descending=True)
    counts = tokens.bincount(minlength=200).double()[order]
    bucket = torch.where(expected >= 25, torch.arange(200), 0)
    large = int((expected >= 25).sum())
    bucket[large:] = large + (expected[large:].cumsum(-1) / 25).long()
    zeros = torch.zeros(int(bucket.max()) + 1, dtype=torch.float64)
    want = zeros.scatter_add(0, bucket, expected)
    got = zeros.scatter_add(0, bucket, counts)
    assert got[want < 1e-9].sum() == 0
    want, got = want[want > 5], got[want > 5]
    statistic, freedom = float(((got - want) ** 2 / want).sum()), len(want) - 1
    # Wilson and Hilferty: the cube root is close to normal; 5 standard deviations
    bound = freedom * (1 - 2 / (9 * freedom) + 5 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert statistic < bound, (statistic, freedom)


# ---- the cuts against transformers ---------------------------------------------------------


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_kept_sets_are_those_of_transformers(cuts: tuple) -> None:
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    temperature, top_k, top_p, min_p = cuts
    chain = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    if min_p:
        chain.append(MinPLogitsWarper(min_p))
    for seed in range(10):
        logits = random_logits(4, 500, seed=seed)
        warped = chain(None, logits)
        assert torch.equal(reference.kept(logits.double(), *cuts), warped > -INF)


def test_ties_of_the_kth_stay_and_ties_of_the_nucleus_go_by_column(sample: Sample) -> None:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    row = torch.zeros(40)
    row[[3, 9, 11, 30]] = 2.0
    uniform = torch.linspace(0.001, 0.999, 101)
    rows = row.expand(101, -1)
    kept = TopKLogitsWarper(2)(None, row[None]).isfinite().nonzero()[:, 1]
    assert sample(rows, uniform, top_k=2).token.unique().tolist() == kept.tolist()
    assert kept.tolist() == [3, 9, 11, 30]
    p = float(row.softmax(-1)[3])
    number = int(TopPLogitsWarper(2.5 * p)(None, row[None]).isfinite().sum())
    tokens = sample(rows, uniform, top_p=2.5 * p).token.unique().tolist()
    assert tokens == [3, 9, 11][:number]


# ---- special values ------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tokens_are_in_range_and_never_masked(
    sample: Sample, cuts: tuple, dtype: torch.dtype
) -> None:
    nearly_one = torch.tensor([0.0, 1e-45, 0.5, 1 - 2**-24, 0.25, 0.75])
    for columns, vocab in ((100, 97), (5000, 4099)):
        logits = random_logits(2, columns, dtype)
        logits[:, ::3] = -INF
        logits[:, vocab - 3 : vocab] = -INF
        logits[:, vocab:] = 100.0
        for i in range(3):
            out = sample(logits, nearly_one[2 * i : 2 * i + 2], *cuts, vocab_size=vocab)
            assert (out.token < vocab).all()
            assert (out.token >= 0).all()
            assert logits.gather(1, out.token[:, None]).isfinite().all()
            assert out.logprob.isfinite().all()


@pytest.mark.parametrize("cuts", [*CUTS, (0.0, 0, 1.0, 0.0)], ids=str)
def test_invalid_rows_and_infinities(sample: Sample, cuts: tuple) -> None:
    logits = random_logits(5, 300)
    logits[0, 100] = NAN
    logits[1] = -INF
    logits[2, 250] = INF
    logits[3, [10, 20]] = INF
    uniform = torch.tensor([0.3, 0.3, 0.3, 0.9, 0.3])
    out = sample(logits, uniform, *cuts)
    assert out.valid.tolist() == [False, False, True, True, True]
    assert out.token[:3].tolist() == [0, 0, 250]
    assert out.logprob[:2].isnan().all()
    assert out.logprob[2] == 0
    alone = sample(logits[4:], uniform[4:], *cuts)
    assert out.token[4] == alone.token[0]
    assert out.logprob[4] == alone.logprob[0]
    one_kept = cuts[1] == 1 or cuts[2] < 0.5 or cuts[0] == 0  # a tie with the first of top_k stays
    if not one_kept or cuts[1] == 1:
        assert out.token[3] == 20
        torch.testing.assert_close(out.logprob[3], torch.tensor(0.5).log())


def test_more_infinities_than_a_list_holds_whatever_its_values(sample: Sample) -> None:
    logits = random_logits(1, 200).expand(12, -1).clone()
    infinite = torch.arange(3, 200, 17)
    logits[:, infinite] = INF
    uniform = (torch.arange(12) + 0.5) / 12
    for min_p in (1e-3, 1.0):
        out = sample(logits, uniform, 0.5, min_p=min_p, k=4)
        assert torch.equal(out.token, infinite)
        torch.testing.assert_close(out.logprob, torch.full((12,), -math.log(12)))


def test_min_p_keeps_what_it_does_among_large_logits(sample: Sample) -> None:
    """The spacing of float32 at 1e4 is 1e-3: the edge of what is kept must not move by it."""
    row = random_logits(1, 900)[0] + 1e4
    for temperature, min_p in ((1.0, 0.1), (1.5, 0.003), (0.7, 1e-5)):
        cuts = (temperature, 0, 1.0, min_p)
        tokens, uniform = middles(probabilities(row, cuts), 1e-3)
        out = sample(row.expand(len(tokens), -1)[:9], uniform[:9], *cuts, k=2)
        assert torch.equal(out.token, tokens[:9])


def test_extreme_temperatures(sample: Sample) -> None:
    logits = random_logits(2, 400)
    uniform = torch.tensor([0.1, 0.9])
    cold = sample(logits, uniform, 1e-30)
    assert torch.equal(cold.token, cold.topk_ids[:, 0])
    uniform_of_tokens = torch.tensor([100.5, 300.5]) / 400
    for heat in (1e30, 1e37, 1e300):
        assert sample(logits, uniform_of_tokens, heat).token.tolist() == [100, 300]
    for tiny in (5e-324, 1e-40):
        assert torch.equal(sample(logits, uniform, tiny).token, cold.token)


@pytest.mark.parametrize("temperature", [1e30, 1e37, 1e300])
def test_heat_gives_no_weight_to_masked_columns(sample: Sample, temperature: float) -> None:
    logits = torch.full((1, 4100), -6e4)
    logits[:, ::2] = -INF
    for cuts in ({}, {"top_p": 0.5}, {"min_p": 0.5}, {"top_k": 4099, "top_p": 1e-9}):
        out = sample(logits, torch.tensor([0.9]), temperature, **cuts)
        assert logits[0, out.token[0]] == -6e4, cuts
        assert out.logprob.isfinite().all(), cuts


def test_min_p_keeps_all_that_a_high_temperature_makes_equal(sample: Sample) -> None:
    logits = random_logits(1, 300) * 1e30
    out = sample(logits, torch.tensor([250.5 / 300]), 1e36, min_p=0.9)
    assert int(out.token) == 250


SPECIAL = st.sampled_from([0.0, -0.0, INF, -INF, NAN, 1.0, -1e4, 88.0, -88.0])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 300)),
    layout=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2)),
    masks=st.lists(st.tuples(SPECIAL, st.sampled_from([0.01, 0.3, 0.99])), max_size=3),
    cuts=st.tuples(
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([0, 1, 7, 64, 65, 100, 1000]),
        st.sampled_from([1.0, 0.999, 0.9, 0.3]),
        st.sampled_from([0.0, 0.001, 0.2, 1.0]),
    ),
    seed=st.integers(0, 1000),
)
def test_any_case(sample: Sample, shape, layout, masks, cuts, seed) -> None:
    (rows, columns), (padding, offset, dtype) = shape, layout
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.randn(offset + rows * (columns + padding) + 1, generator=generator) * 3
    for value, share in masks:
        buffer[torch.rand(buffer.shape, generator=generator) < share] = value
    buffer = buffer.to(DTYPES[dtype])
    logits = buffer.as_strided((rows, columns), (columns + padding, 1), offset)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    k = min(4, columns)
    out = sample(logits, uniform, *cuts, k=k)
    truth = SampledLogits(*reference.sample_logits(logits, uniform, *cuts, k=k))
    assert torch.equal(out.valid, truth.valid)
    for row in range(rows):
        if not truth.valid[row]:
            assert out.token[row] == 0
            assert out.logprob[row].isnan()
        elif out.token[row] != truth.token[row]:  # only at the very edge of a share
            x = logits[row, : int(max(out.token[row], truth.token[row])) + 1].double()
            d = torch.where(x == x.max(), 0.0, (x - truth.max_logit[row]) / cuts[0])
            assert abs(int(out.token[row]) - int(truth.token[row])) > 0
            share = probabilities(logits[row], cuts).cumsum(-1)
            assert (share - uniform[row]).abs().min() < 2e-6, d
        else:
            torch.testing.assert_close(out.logprob[row], truth.logprob[row], atol=4e-6, rtol=4e-6)
