"""sample_logits on every backend: the distribution, the cuts, the same token everywhere.

Uniforms are taken from the middle of a token's share of the line, so that the rounding of a
backend's sums cannot move them over a boundary.
"""

from __future__ import annotations

import pytest
import torch
from support.backends import DTYPES, NAN, assert_same_bits, needs_extension, random_logits
from support.samplers import (
    CUTS,
    PLAIN,
    Sample,
    assert_follows,
    middles,
    probabilities,
    triton_sample,
)

import steer_kernels
from steer_kernels import logit_stats, sample_logits

# ---- the token and its probability ---------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.spread(4, ci=16)
def test_every_token_is_found_where_its_share_lies(
    sample: Sample, cuts: tuple, dtype: torch.dtype
) -> None:
    """The same uniform gives the same token on every backend, as they all meet this."""
    for columns, rows in ((33, 9), (300, 9), (4501, 1)):  # what Triton's interpreter bears
        row = random_logits(1, columns, dtype, seed=columns)[0]
        p = probabilities(row, cuts)
        tokens, uniform = middles(p)
        rows = min(rows, 3) if sample is triton_sample else rows
        tokens, uniform = tokens[:: len(tokens) // rows + 1], uniform[:: len(tokens) // rows + 1]
        out = sample(row.expand(len(tokens), columns), uniform, *cuts)
        assert torch.equal(out.token, tokens)
        expected = p[tokens].log()
        torch.testing.assert_close(out.logprob.double(), expected, atol=2e-6, rtol=2e-6)


@needs_extension
@pytest.mark.parametrize("isa", steer_kernels.supported_cpu_isas())
@pytest.mark.parametrize("cuts", [*PLAIN, (1.0, 0, 0.9, 0.0), (1.2, 500, 1.0, 0.0)], ids=str)
@pytest.mark.few(4)
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


@pytest.mark.parametrize("cuts", CUTS[1:], ids=str)
@pytest.mark.spread(3, ci=12)
def test_the_statistics_are_those_of_logit_stats(sample: Sample, cuts: tuple) -> None:
    logits = random_logits(3, 700, torch.bfloat16)
    logits[1, 5] = NAN
    uniform = torch.rand(3)
    first = sample(logits, uniform, 1.0, k=20, vocab_size=650).stats
    assert_same_bits(sample(logits, uniform, *cuts, k=20, vocab_size=650).stats, first)
    if sample is sample_logits:
        assert_same_bits(logit_stats(logits, 20, 650), first)


@pytest.mark.parametrize("cuts", [*PLAIN, (1.5, 40, 1.0, 0.0), (1.5, 0, 0.8, 0.0)], ids=str)
@pytest.mark.few(8)
def test_chi_square_with_tail_buckets(sample: Sample, cuts: tuple) -> None:
    """Counts of 20 000 draws; tokens with fewer than 25 expected share buckets of at least 25."""
    if sample is triton_sample and cuts not in PLAIN:
        pytest.skip("a hundred rows of cuts take Triton's interpreter a minute")
    row = random_logits(1, 200)[0] / 2
    draws = 20_000 if sample is not triton_sample else 100
    p = probabilities(row, cuts)
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(draws, generator=generator, dtype=torch.float64)
    tokens = sample(row.expand(draws, -1), uniform, *cuts).token
    assert_follows(tokens, p)
