"""accept_drafts on every backend: who is accepted, what stands in, and that p is what comes out.

Uniforms are taken from the middle of an interval, so that the rounding of a backend's sums cannot
move them over a boundary.
"""

from __future__ import annotations

import pytest
import torch
from support.acceptors import (
    CUTS,
    PLAIN,
    Accept,
    distribution,
    log,
    pair,
    ratio,
    rest,
    triton_accept,
)
from support.backends import DTYPES, NAN, needs_extension, random_logits
from support.samplers import assert_follows, middles
from torch import Tensor

from steer_kernels import Packed, PackedDraft, accept_drafts, sample_logits_packed, unpack

LAST = 1.0 - 2.0**-53  # the largest uniform


def places(p: list[float], q: list[float], most: int) -> list[tuple[int, float, int, bool]]:
    """Draft, uniform, token and acceptance: in the middle of what each outcome has of the line."""
    drafts = sorted(range(len(p)), key=lambda i: -max(p[i], q[i]))[:most]
    drafts += [i for i in range(len(p)) if q[i] == 0][:2]
    found = []
    for draft in drafts:
        a = ratio(p, q, draft)
        if a > 1e-4:
            found.append((draft, a / 2, draft, True))
        if a < 1:
            tokens, shares = middles(torch.tensor(rest(p, q), dtype=torch.float64), 1e-3)
            step = len(tokens) // 3 + 1
            for token, share in zip(tokens[::step].tolist(), shares[::step].tolist(), strict=True):
                found.append((draft, a + (1 - a) * share, token, False))
    return found


@pytest.mark.spread(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_every_outcome_is_found_where_its_share_lies(
    accept: Accept, cuts: tuple, dtype: torch.dtype
) -> None:
    interpreted = accept is triton_accept
    for columns in (33,) if interpreted else (33, 300, 4501):
        large, small = pair(columns, dtype, seed=columns)
        p, q = distribution(large, cuts), distribution(small, cuts)
        drafts, uniform, tokens, accepted = zip(*places(p, q, 1 if interpreted else 6), strict=True)
        rows = len(drafts)
        out = accept(
            large.expand(rows, -1),
            torch.tensor(drafts),
            torch.tensor(uniform, dtype=torch.float64),
            small.expand(rows, -1),
            *cuts,
        )
        assert out[:, Packed.TOKEN].tolist() == list(tokens)
        assert out[:, PackedDraft.ACCEPTED].tolist() == list(accepted)
        near = {"atol": 2e-6, "rtol": 2e-6}
        torch.testing.assert_close(out[:, Packed.LOGPROB], log(p)[list(tokens)], **near)
        torch.testing.assert_close(out[:, PackedDraft.DRAFT_LOGPROB], log(p)[list(drafts)], **near)


@pytest.mark.parametrize("cuts", [CUTS[0], CUTS[1], CUTS[5], CUTS[8]], ids=str)
def test_padding_dtypes_and_strides_may_differ(accept: Accept, cuts: tuple) -> None:
    """Columns beyond the vocabulary never win and never count, on either side."""
    vocab = 70
    large, small = pair(vocab, torch.bfloat16, seed=5)
    p, q = distribution(large, cuts), distribution(small, cuts)
    drafts, uniform, tokens, accepted = zip(*places(p, q, 2), strict=True)
    rows = len(drafts)
    logits = torch.full((rows, vocab + 3), 99.0, dtype=torch.float32)
    logits[:, :vocab] = large
    wide = torch.full((rows, 3 * vocab), 99.0, dtype=torch.bfloat16)
    wide[:, 5 : vocab + 5] = small
    numbers = torch.zeros(rows, 3, dtype=torch.float64)
    numbers[:, 1] = torch.tensor(uniform)
    out = accept(
        logits,
        torch.tensor(drafts).repeat_interleave(2)[::2],
        numbers[:, 1],
        wide[:, 5:],
        *cuts,
        vocab_size=vocab,
    )
    assert out[:, Packed.TOKEN].tolist() == list(tokens)
    assert out[:, PackedDraft.ACCEPTED].tolist() == list(accepted)


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_a_draft_from_the_same_distribution_always_stands(accept: Accept, cuts: tuple) -> None:
    for columns, dtype in ((100, torch.float32), (5000, torch.bfloat16)):
        large, _ = pair(columns, dtype)
        drafts = log(distribution(large, cuts)).isfinite().nonzero()[:4, 0].repeat(2)
        rows, uniform = len(drafts), torch.full((len(drafts),), LAST, dtype=torch.float64)
        out = accept(large.expand(rows, -1), drafts, uniform, large.expand(rows, -1), *cuts)
        assert torch.equal(out[:, Packed.TOKEN], drafts.double())
        assert (out[:, PackedDraft.ACCEPTED] == 1).all()
        assert torch.equal(out[:, Packed.LOGPROB], out[:, PackedDraft.DRAFT_LOGPROB])


@pytest.mark.parametrize("cuts", [CUTS[0], CUTS[2], CUTS[3], CUTS[5]], ids=str)
def test_nothing_in_common_gives_p(accept: Accept, cuts: tuple) -> None:
    large, small = pair(90, torch.float32)
    large[:45], small[45:] = -torch.inf, -torch.inf
    p = distribution(large, cuts)
    tokens, uniform = middles(torch.tensor(p, dtype=torch.float64), 1e-2)
    tokens, uniform = tokens[:4], uniform[:4]
    drafts = (torch.arange(len(tokens)) * 7) % 45
    rows = len(tokens)
    out = accept(large.expand(rows, -1), drafts, uniform, small.expand(rows, -1), *cuts)
    assert torch.equal(out[:, Packed.TOKEN].long(), tokens)
    assert (out[:, PackedDraft.ACCEPTED] == 0).all()
    assert (out[:, PackedDraft.DRAFT_LOGPROB] == -torch.inf).all()


# ---- drafts without a distribution, places without a draft, greedy ----------------------------


def drawn(logits: Tensor, uniform: Tensor, cuts: tuple, accept: Accept, **options: int) -> Tensor:
    """What sample_logits_packed returns on the backend that `accept` runs on."""
    if accept is not triton_accept:
        return sample_logits_packed(logits, uniform, *cuts, **options)
    from steer_kernels.ops import sample_logits as sampling
    from steer_kernels.ops.sample_logits_packed import pack

    return pack(sampling.SampledLogits(*sampling._cuda(logits, uniform, *cuts, **options)))


GREEDY = (0.0, 3, 0.5, 0.5)


@pytest.mark.parametrize("cuts", [GREEDY, *CUTS], ids=str)
def test_a_draft_of_no_known_distribution_has_to_be_the_token(accept: Accept, cuts: tuple) -> None:
    logits = random_logits(5, 700)
    logits[4, 600] = NAN
    uniform = torch.rand(5, dtype=torch.float64)
    options = {"k": 5, "vocab_size": 690}
    expected = drawn(logits, uniform, cuts, accept, **options)
    drafts = expected[:, Packed.TOKEN].long()
    drafts[1] = (drafts[1] + 1) % 690
    drafts[2] = -1
    out = accept(logits, drafts, uniform, None, *cuts, **options)
    if accept.__name__ == "_fallback":  # the float64 definition
        torch.testing.assert_close(out[:, :-2], expected, atol=3e-6, rtol=3e-6, equal_nan=True)
    else:
        assert torch.equal(out[:, :-2].nan_to_num(nan=1e9), expected.nan_to_num(nan=1e9))
    assert out[:, PackedDraft.ACCEPTED].tolist() == [1, 0, 0, 1, 0]
    assert out[:, PackedDraft.DRAFT_LOGPROB].isnan().tolist() == [False, False, True, False, True]
    same = out[[0, 3]]
    assert torch.equal(same[:, PackedDraft.DRAFT_LOGPROB], same[:, Packed.LOGPROB])


@pytest.mark.parametrize("cuts", [GREEDY, CUTS[0], CUTS[1], CUTS[4], CUTS[5]], ids=str)
def test_a_place_without_a_draft_is_sampled(accept: Accept, cuts: tuple) -> None:
    """And its draft logits are not read; nor are any when the choice is greedy."""
    logits, uniform = random_logits(3, 700), torch.rand(3, dtype=torch.float64)
    unread = torch.full((3, 700), NAN)
    none = torch.full((3,), -1)
    out = accept(logits, none, uniform, unread, *cuts, k=3)
    alone = accept(logits, none, uniform, None, *cuts, k=3)
    assert torch.equal(out.nan_to_num(nan=1e9), alone.nan_to_num(nan=1e9))
    assert (out[:, Packed.VALID] == 1).all()
    assert out[:, PackedDraft.DRAFT_LOGPROB].isnan().all()


def test_greedy_drafts_stand_if_they_are_the_first_of_the_largest(accept: Accept) -> None:
    logits = random_logits(3, 500)
    logits[:, [40, 77]] = 50.0
    out = accept(logits, torch.tensor([40, 77, 3]), torch.tensor([0.0, 0.5, 0.999]), logits, 0.0)
    assert out[:, Packed.TOKEN].tolist() == [40, 40, 40]
    assert out[:, PackedDraft.ACCEPTED].tolist() == [1, 0, 0]
    raw = logits.double().log_softmax(-1)
    torch.testing.assert_close(out[:, Packed.LOGPROB], raw[:, 40], atol=2e-6, rtol=2e-6)
    expected = raw[[0, 1, 2], [40, 77, 3]]
    torch.testing.assert_close(out[:, PackedDraft.DRAFT_LOGPROB], expected, atol=2e-6, rtol=2e-6)


# ---- the token follows p ----------------------------------------------------------------------


@pytest.mark.few(1)
@needs_extension
@pytest.mark.parametrize(
    ("cuts", "informed"),
    [
        (CUTS[0], True),
        (CUTS[0], False),
        ((1.3, 20, 1.0, 0.0), True),
        (CUTS[8], True),
        *(
            pytest.param(cuts, informed, marks=pytest.mark.slow)
            for cuts in (*PLAIN[1:], (1.5, 0, 0.8, 0.0))
            for informed in (True, False)
        ),
    ],
    ids=str,
)
def test_whatever_the_drafts_the_tokens_follow_p(cuts: tuple, informed: bool) -> None:
    """200 000 drafts from q, each with a uniform of its own: chi-square with tail buckets."""
    draws = 200_000
    large, small = pair(200, torch.float32, seed=1)
    large, small = large / 2, small / 2
    p = torch.tensor(distribution(large, cuts), dtype=torch.float64)
    q = torch.tensor(distribution(small, cuts), dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    drafts = torch.multinomial(q, draws, replacement=True, generator=generator)
    uniform = torch.rand(draws, generator=generator, dtype=torch.float64)
    out = accept_drafts(
        large.expand(draws, -1),
        drafts,
        uniform,
        small.expand(draws, -1) if informed else None,
        *cuts,
        k=1,
    )
    assert_follows(out[:, Packed.TOKEN].long(), p)
    share = float(torch.minimum(p, q).sum() if informed else (p * q).sum())
    accepted = float(out[:, PackedDraft.ACCEPTED].mean())
    assert abs(accepted - share) < 5 * (share * (1 - share) / draws) ** 0.5


def test_the_front_of_the_result_unpacks(accept: Accept) -> None:
    large, small = pair(60, torch.float32)
    out = accept(large[None], torch.tensor([3]), torch.tensor([0.5]), small[None], k=4)
    assert out.shape == (1, len(Packed) + 8 + len(PackedDraft))
    sampled = unpack(out[:, :-2])
    values, ids = large.sort(descending=True)
    assert torch.equal(sampled.topk_ids[0], ids[:4])
    assert torch.equal(sampled.topk_logits[0], values[:4])
    raw = large.double().log_softmax(-1)
    torch.testing.assert_close(sampled.entropy[0].double(), -(raw.exp() * raw).sum())
