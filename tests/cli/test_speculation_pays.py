"""From which agreement on speculation saves: the formula against runs."""

from __future__ import annotations

import functools

import pytest
from steer_decode import AlwaysLarge, Pair, RoutedOutput, Router, Speculative
from steer_decode.preflight.agreement import agreement
from steer_decode.preflight.speculation import Agreement, Prices, prices, tokens_a_pass
from support.tiny import make_close_pair, prompt_ids, prompt_text

COSTS = ("flops_paper", "flops_processed", "bytes_read")


@pytest.mark.parametrize(("a", "k", "tokens"), [(0.0, 4, 1.0), (1.0, 4, 5.0), (0.5, 2, 1.75)])
def test_tokens_a_pass_by_hand(a: float, k: int, tokens: float) -> None:
    assert tokens_a_pass(a, k) == pytest.approx(tokens)


def test_a_walk_by_hand() -> None:
    yes, no = True, False
    # Passes over two drafts: yes yes and one more; no; yes no; yes.
    found = Agreement([[yes, yes, yes, no, yes, no, yes]])
    assert found.rate == pytest.approx(5 / 7)
    assert found.walk(2) == pytest.approx((7 / 4, 2 / 4))
    assert found.walk(16) == pytest.approx((7 / 3, 1 / 3))


def test_the_least_agreement_by_hand() -> None:
    # A pass costs as one token, a draft a half of it: with k = 1 it needs 1 + a > 1.5.
    assert Prices("bytes", 0.5, 1.0, [1.0]).least() == pytest.approx(0.5, abs=1e-3)
    assert Prices("processed", 0.1, 1.0, [2.0, 3.0, 4.0]).least() is None
    assert Prices("bytes", 1.0, 1.0, [1.0, 1.0]).least() is None


PROMPT, N = prompt_ids(2, 12), 120


@functools.cache
def of_the_large_model(noise: float) -> tuple[Pair, RoutedOutput, Agreement]:
    """A pair, the large model's own answer, and what the small one says to each of its tokens."""
    pair = make_close_pair("llama", 6, noise)
    plain = Router(pair, AlwaysLarge()).generate(PROMPT, max_new_tokens=N)
    return pair, plain, walked(pair, PROMPT, N)


@pytest.mark.few(1)
@pytest.mark.spread
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_what_is_foretold_is_what_a_run_costs(k: int, noise: float) -> None:
    pair, plain, found = of_the_large_model(noise)
    drafted = Router(pair, Speculative(k=k)).generate(PROMPT, max_new_tokens=N)
    assert drafted.token_ids == plain.token_ids
    foretold = prices(pair.shapes["small"], pair.shapes["large"], len(PROMPT) + N // 2)
    for cost, price in zip(COSTS, foretold, strict=True):
        spent = getattr(drafted.cost, cost) / getattr(plain.cost, cost)
        assert price.ratio(k, *found.walk(k)) == pytest.approx(spent, rel=0.12), cost


def walked(pair: Pair, prompt: list[int], n: int) -> Agreement:
    import torch

    ids = Router(pair, AlwaysLarge()).generate(prompt, max_new_tokens=n).token_ids
    with torch.no_grad():
        logits = pair.small(torch.tensor([prompt + ids])).logits[0, :, : pair.vocab_size]
    likeliest = logits.argmax(-1)[len(prompt) - 1 : -1].tolist()
    return Agreement([[a == b for a, b in zip(likeliest, ids, strict=True)]])


def test_agreement_is_that_of_a_full_pass() -> None:
    pair = make_close_pair("qwen2", 6, 0.2)
    prompts = [prompt_text(i, 5 + i) for i in range(3)]
    found = agreement(pair, prompts, 40)
    expected = [walked(pair, pair.encode(p), 40).answers[0] for p in prompts]
    assert [list(a) for a in found.answers] == [list(a) for a in expected]
    assert 0 < found.rate < 1
