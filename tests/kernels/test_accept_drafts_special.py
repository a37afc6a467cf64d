"""accept_drafts on every backend: masks, NaN, infinities, extreme temperatures, and any case."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.acceptors import CUTS, Accept, distribution, ratio, rest, triton_accept
from support.backends import DTYPES, INF, NAN, random_logits
from support.samplers import as_near_as_sums_tell

from steer_kernels import Packed, PackedDraft, reference

GREEDY = (0.0, 0, 1.0, 0.0)
COLUMNS = len(Packed) + 2 * 2 + len(PackedDraft)


@pytest.mark.parametrize("cuts", [*CUTS, GREEDY], ids=str)
def test_rows_that_are_not_valid(accept: Accept, cuts: tuple) -> None:
    """On either side; what is not needed of the drafting model's logits need not be sound."""
    large, small = random_logits(6, 300), random_logits(6, 300, seed=1)
    large[0, 299], large[1] = NAN, -INF
    small[2, 5], small[3], small[4, 7] = NAN, -INF, NAN
    drafts = torch.tensor([4, 4, 4, 4, -1, 4])
    uniform = torch.full((6,), 0.4)
    out = accept(large, drafts, uniform, small, *cuts, k=2)
    needed = cuts[0] > 0
    valid = [False, False, not needed, not needed, True, True]
    assert (out[:, Packed.VALID] == 1).tolist() == valid
    unsound = [0, 0, *[NAN] * 6, 0, 1, NAN, 0]
    for row in range(6):
        if not valid[row]:
            torch.testing.assert_close(
                out[row], torch.tensor(unsound, dtype=torch.float64), equal_nan=True
            )
    alone = accept(large[5:], drafts[5:], uniform[5:], small[5:], *cuts, k=2)
    assert torch.equal(out[5], alone[0])


@pytest.mark.parametrize("cuts", [CUTS[0], CUTS[1], CUTS[5], CUTS[6]], ids=str)
def test_infinities_share_all_of_the_mass(accept: Accept, cuts: tuple) -> None:
    large, small = random_logits(1, 200), random_logits(1, 200, seed=1)
    large[0, [10, 20, 30]] = INF
    small[0, [20, 40]] = INF
    kept = 3 if cuts[2] > 0.8 else 2
    # Of the draft, what p gives it and what q does: 1/3 and 1/2; 0 and 1/2; 1/3 and 0; 0 and 0.
    drafts = torch.tensor([20, 20, 20, 40, 40, 10, 5])
    uniform = torch.tensor([0.3, 0.99, 0.7, 0.2, 0.9, 0.999, 0.2])
    out = accept(large.expand(7, -1), drafts, uniform, small.expand(7, -1), *cuts)
    # Left are 10 and 30, halves of what is above q, when 20 is refused, or 40, or 5.
    assert out[:, Packed.TOKEN].tolist() == [20, 30, 10, 10, 30, 10, 10]
    assert out[:, PackedDraft.ACCEPTED].tolist() == [1, 0, 0, 0, 0, 1, 0]
    third = -math.log(kept)
    expected = [third, third, third, -INF, -INF, third, -INF]
    torch.testing.assert_close(out[:, PackedDraft.DRAFT_LOGPROB], torch.tensor(expected).double())


@pytest.mark.spread(2)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_tokens_are_in_range_and_never_masked(
    accept: Accept, cuts: tuple, dtype: torch.dtype
) -> None:
    uniform = torch.tensor([0.0, 1 - 2.0**-53, 0.5, 1 - 2.0**-24], dtype=torch.float64)
    for columns, vocab in ((100, 97), (5000, 4099)):
        large, small = random_logits(2, columns, dtype), random_logits(2, columns, dtype, seed=1)
        large[:, ::3], large[:, vocab:] = -INF, 100.0
        drafts = torch.tensor([3, vocab - 1])
        for i in range(2):
            given_uniform = uniform[2 * i : 2 * i + 2]
            out = accept(large, drafts, given_uniform, small, *cuts, vocab_size=vocab)
            token = out[:, Packed.TOKEN].long()
            assert ((token >= 0) & (token < vocab)).all()
            assert large.gather(1, token[:, None]).isfinite().all()
            assert out[:, Packed.LOGPROB].isfinite().all()
            assert out[0, PackedDraft.ACCEPTED] == 0  # it is masked


def test_ties_are_kept_by_column(accept: Accept) -> None:
    """top_k keeps all that tie with its last, top_p the first columns of them."""
    row = torch.tensor([[2.0, 5.0, 2.0, 5.0, 2.0, 1.0]])
    flat = torch.zeros(1, 6)
    drafts, uniform = torch.tensor([4]), torch.tensor([0.01])
    by_k = accept(row, drafts, uniform, flat, 1.0, 3, k=1)
    assert by_k[0, PackedDraft.DRAFT_LOGPROB].isfinite()
    share = math.exp(5) / (2 * math.exp(5) + 3 * math.exp(2) + math.e)
    by_p = accept(row, drafts, uniform, flat, 1.0, 0, 2 * share + 0.01, k=1)
    assert by_p[0, PackedDraft.DRAFT_LOGPROB] == -INF
    assert by_p[0, PackedDraft.ACCEPTED] == 0
    first = accept(row, torch.tensor([0]), uniform, flat, 1.0, 0, 2 * share + 0.01, k=1)
    assert first[0, PackedDraft.DRAFT_LOGPROB].isfinite()


def test_extreme_temperatures(accept: Accept) -> None:
    large, small = random_logits(2, 400), random_logits(2, 400, seed=1)
    best, other = large.argmax(-1), small.argmax(-1)
    assert not torch.equal(best, other)
    uniform = torch.tensor([0.1, 0.9])
    interpreted = accept is triton_accept
    for cold in (5e-324,) if interpreted else (1e-30, 5e-324, 1e-40):
        out = accept(large, other, uniform, small, cold)
        assert torch.equal(out[:, Packed.TOKEN].long(), best)
        assert (accept(large, best, uniform, small, cold)[:, PackedDraft.ACCEPTED] == 1).all()
    for heat in (1e300,) if interpreted else (1e30, 1e37, 1e300):  # all columns alike
        hot = accept(large, torch.tensor([7, 9]), uniform, small, heat)
        assert (hot[:, PackedDraft.ACCEPTED] == 1).all()


def test_what_has_no_weight_in_float64_has_a_logarithm_of_it(accept: Accept) -> None:
    row = torch.tensor([[0.0, -1.0, -2.0, -3.0]])
    for top_k in (0, 3):
        out = accept(row, torch.tensor([2]), torch.tensor([0.5]), None, 1e-3, top_k, k=1)
        assert out[0, PackedDraft.DRAFT_LOGPROB].item() == pytest.approx(-2000.0)
    cut = accept(row, torch.tensor([3]), torch.tensor([0.5]), None, 1e-3, 3, k=1)
    assert cut[0, PackedDraft.DRAFT_LOGPROB] == -INF


SPECIAL = st.sampled_from([0.0, -0.0, INF, -INF, NAN, 1.0, -1e4, 88.0, -88.0])

any_arguments = given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 300)),
    layout=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2), st.integers(0, 2)),
    masks=st.lists(st.tuples(SPECIAL, st.sampled_from([0.01, 0.3, 0.99])), max_size=3),
    cuts=st.tuples(
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([0, 1, 7, 64, 65, 100, 1000]),
        st.sampled_from([1.0, 0.999, 0.9, 0.3]),
        st.sampled_from([0.0, 0.001, 0.2, 1.0]),
    ),
    seed=st.integers(0, 1000),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@any_arguments
def test_any_case(accept: Accept, shape, layout, masks, cuts, seed) -> None:
    check_any_case(accept, shape, layout, masks, cuts, seed)


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@any_arguments
@pytest.mark.parametrize("accept", ["triton"], indirect=True)
def test_a_few_cases_when_interpreted(accept: Accept, shape, layout, masks, cuts, seed) -> None:
    check_any_case(accept, shape, layout, masks, cuts, seed)


def check_any_case(accept: Accept, shape, layout, masks, cuts, seed) -> None:
    (rows, columns), (padding, offset, dtype, small_dtype) = shape, layout
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.randn(2, offset + rows * (columns + padding) + 1, generator=generator) * 3
    for value, share in masks:
        buffer[torch.rand(buffer.shape, generator=generator) < share] = value
    large, small = (
        side.to(DTYPES[kind]).as_strided((rows, columns), (columns + padding, 1), offset)
        for side, kind in zip(buffer, (dtype, small_dtype), strict=True)
    )
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    drafts = torch.randint(-1, columns, (rows,), generator=generator)
    k = min(4, columns)
    out = accept(large, drafts, uniform, small, *cuts, k=k)
    truths = [
        (near, reference.accept_drafts(large, drafts, uniform, small, *near, k=k))
        for near in as_near_as_sums_tell(cuts)
    ]
    assert out.shape == truths[0][1].shape
    for row in range(rows):
        given = large[row], small[row], int(drafts[row]), float(uniform[row])
        faults = [fault(out[row], truth[row], near, *given) for near, truth in truths]
        assert "" in faults, faults


def fault(out, truth, cuts: tuple, large, small, draft: int, uniform: float) -> str:
    """In what a row is not as the reference has it; it may differ at the very edge of a share."""
    decided = [Packed.TOKEN, Packed.VALID, PackedDraft.ACCEPTED]
    if torch.equal(out[decided], truth[decided]):
        near = torch.allclose(out[2:], truth[2:], atol=4e-6, rtol=4e-6, equal_nan=True)
        return "" if near else f"{out} for {truth}"
    if not out[Packed.VALID] == truth[Packed.VALID] == 1:
        return "another row is valid"
    away = edge(large, small, draft, cuts, uniform)
    return "" if away < 4e-6 else f"{out[decided]}, {away} away from a share's edge"


def edge(large, small, draft: int, cuts: tuple, uniform: float) -> float:
    """How far the uniform is from the nearest boundary, as a part of the whole."""
    p, q = distribution(large, cuts), distribution(small, cuts) if draft >= 0 else None
    if q is None:
        shares, start, width = p, 0.0, 1.0
    else:
        start = ratio(p, q, draft)
        if uniform < start:
            return start - uniform
        shares, width = rest(p, q), 1.0 - start
    through = torch.tensor(shares, dtype=torch.float64).cumsum(-1)
    inside = float((start + width * through - uniform).abs().min())
    left = math.fsum(max(0.0, a - b) for a, b in zip(p, q, strict=True)) if q else 1.0
    return min(inside, uniform - start) * min(1.0, left) if left < 1e-3 else inside
