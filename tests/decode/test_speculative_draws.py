"""Speculation at temperatures above 0: tokens against the exact distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from scipy.stats import chi2
from steer_decode import Pair, Router, parse_policy
from steer_decode.core.sampling import Sampling
from steer_decode.engines.hf.verifying import _log_p
from support import reference_loop
from support.tiny import make_close_pair, prompt_ids

ASKED = [prompt_ids(1, 9), prompt_ids(2, 14)]


def joint(pair: Pair, ids: list[int], sampling: Sampling, n: int) -> dict[tuple[int, ...], float]:
    """Probability of the next ``n`` tokens of the large model, from full passes."""
    if n == 0:
        return {(): 1.0}
    logits = reference_loop.next_logits(pair, "large", ids)[None]
    probs = _log_p(logits, sampling)[0].exp().tolist()
    found = {}
    for token, p in enumerate(probs):
        if p > 0:
            ended = token in pair.eos_ids
            rest = {(): 1.0} if ended else joint(pair, [*ids, token], sampling, n - 1)
            found |= {(token, *more): p * q for more, q in rest.items()}
    return found


def assert_all_fit(
    pair: Pair, counts: Sequence[Counter[tuple[int, ...]]], sampling: Sampling, n: int
) -> None:
    """The first tokens of answers to each prompt follow what is expected after it."""
    for prompt, counted in zip(ASKED, counts, strict=True):
        assert_fits(counted, joint(pair, prompt, sampling, n))


def assert_fits(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> None:
    """Pearson's chi-square at 1e-4, with what is expected less than ten times in one bucket."""
    total = counts.total()
    assert not {*counts} - {*expected}, "a token that cannot be drawn"
    often = [key for key, p in expected.items() if p * total >= 10]
    observed = [counts[key] for key in often] + [total - sum(counts[key] for key in often)]
    wanted = [expected[key] * total for key in often]
    wanted.append(total - sum(wanted))
    pairs = [(o, w) for o, w in zip(observed, wanted, strict=True) if w > 1e-9]
    statistic = sum((o - w) ** 2 / w for o, w in pairs)
    assert statistic < chi2.isf(1e-4, len(pairs) - 1)


CUTS = {
    "plain": Sampling(1.0),
    "top-k": Sampling(0.8, top_k=6),
    "top-p": Sampling(1.3, top_p=0.8),
    "min-p": Sampling(1.0, min_p=0.1),
    "all": Sampling(1.5, 0.9, 12, 0.02),
}


def drawn(
    pair: Pair, router: str, sampling: Sampling, n: int, draws: int, at_once: int = 1000
) -> list[Counter[tuple[int, ...]]]:
    """The first ``n`` tokens of so many answers to each prompt, each with a seed of its own."""
    made, counts = Router(pair, parse_policy(router)), [Counter[tuple[int, ...]]() for _ in ASKED]
    options = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
    }
    for start in range(0, 2 * draws, at_once):
        # Of ragged cohorts: every second prompt has another length.
        outs = made.cohort(
            ASKED * (at_once // 2),
            max_new_tokens=n + 1,
            seed=range(start, start + at_once),
            **options,
        )
        for which, counted in enumerate(counts):
            counted.update(tuple(out.token_ids[:n]) for out in outs[which::2])
    return counts


@pytest.mark.few(1)
@pytest.mark.spread(1, ci=2)
@pytest.mark.parametrize(
    "router",
    [
        "speculative:k=1",
        "speculative:k=4",
        "speculative:k=auto:least=0.3",
        "both-sides:part=3:sure=1",
    ],
)
@pytest.mark.parametrize("cut", CUTS)
def test_sampled_tokens_have_the_large_models_distribution(cut: str, router: str) -> None:
    pair = make_close_pair("qwen2", 11, 1.0)
    assert_all_fit(pair, drawn(pair, router, CUTS[cut], 1, 600, 1200), CUTS[cut], 1)


FIRST_TOKENS = [("speculative:k=2", 1, "all"), ("speculative:k=3", 3, "plain")]


@pytest.mark.slow
@pytest.mark.parametrize(("router", "n", "cut"), FIRST_TOKENS)
def test_a_token_and_a_step_of_three_fit(router: str, n: int, cut: str) -> None:
    pair = make_close_pair("qwen2", 11, 1.0)
    assert_all_fit(pair, drawn(pair, router, CUTS[cut], n, 2500, 2500), CUTS[cut], n)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("router", "n", "cut"), FIRST_TOKENS)
def test_two_hundred_thousand_draws_fit(router: str, n: int, cut: str) -> None:
    pair = make_close_pair("qwen2", 11, 1.0)
    counts = drawn(pair, router, CUTS[cut], n, 100_000, 2000)
    assert [counted.total() for counted in counts] == [100_000, 100_000]
    assert_all_fit(pair, counts, CUTS[cut], n)


@pytest.mark.slow
def test_drafts_of_another_distribution_would_be_noticed() -> None:
    """The test can fail: what is drawn from the small model does not fit the large one's."""
    pair = make_close_pair("qwen2", 11, 1.0)
    for prompt, counted in zip(ASKED, drawn(pair, "small", CUTS["plain"], 1, 600), strict=True):
        with pytest.raises(AssertionError):
            assert_fits(counted, joint(pair, prompt, CUTS["plain"], 1))


@pytest.mark.slow
def test_cascade_draws_from_the_papers_target() -> None:
    """TokenV3 of arXiv 2405.19261: q on the tokens that p finds likely, p for the rest of q."""
    pair, sampling = make_close_pair("qwen2", 11, 1.0), CUTS["plain"]
    counts = drawn(pair, "speculative:k=1:accept=cascade:alpha=0.97", sampling, 1, 600, 1200)
    for prompt, counted in zip(ASKED, counts, strict=True):
        p, q = (
            reference_loop.next_logits(pair, writer, prompt).softmax(0)
            for writer in ("large", "small")
        )
        likely = p >= 0.03 * p.max()
        target = q * likely + p * float(q[~likely].sum())
        assert 0.05 < float(q[~likely].sum()) < 0.95
        assert_fits(counted, {(i,): x for i, x in enumerate(target.tolist())})
