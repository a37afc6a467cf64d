"""Drafts that are judged in parts: what stays unread, what is verified, and what it costs."""

from __future__ import annotations

import functools

import pytest
from steer_decode import BothSides, Pair, Router, SteerError, parse_policy
from support import reference_loop
from support.tiny import make_close_pair, prompt_ids

PROMPTS = [prompt_ids(i, 4 + 5 * i) for i in range(3)]
LIMIT = 40


@functools.cache
def pair_and_passes() -> tuple[Pair, reference_loop.Known]:
    """One pair for all settings, many of which go through the same texts."""
    return make_close_pair("llama", 4, 0.3), {}


def by_hand(prompt: list[int], k: int, sure: float, least: float) -> list[int]:
    """The greedy rule from scratch: a full pass for every token of either model."""
    pair, known = pair_and_passes()
    ids, end = list(prompt), len(prompt) + LIMIT

    def likeliest(writer: str, text: list[int]) -> tuple[int, float]:
        probs = reference_loop.next_logits(pair, writer, text, known).softmax(0)
        return int(probs.argmax()), float(probs.max())

    while len(ids) < end and ids[-1] not in pair.eos_ids:
        draft, doubted = [], sure >= 1
        while len(draft) < min(k, end - len(ids) - (sure >= 1)):
            token, p = likeliest("small", ids + draft)
            doubted |= p < sure
            if p < least:
                break
            draft.append(token)
            if token in pair.eos_ids:
                break
        if doubted and len(draft) == end - len(ids):
            draft.pop()
        if draft and not doubted:
            ids += draft
            continue
        for token in draft:
            own, _ = likeliest("large", ids)
            if own != token:
                break
            ids.append(token)
        else:
            own, _ = likeliest("large", ids)
        if ids[-1] not in pair.eos_ids:
            ids.append(own)
    return ids[len(prompt) :]


@pytest.mark.few(1)
@pytest.mark.spread(2, ci=3)
@pytest.mark.parametrize("least", [0.0, 0.2])
@pytest.mark.parametrize("sure", [0.2, 0.35, 0.6, 1.0])
@pytest.mark.parametrize("k", [1, 4, 50])
def test_the_rule_from_scratch(k: int, sure: float, least: float) -> None:
    pair, _ = pair_and_passes()
    router = Router(pair, BothSides(part=k, sure=sure, least=least))
    expected = [by_hand(prompt, k, sure, least) for prompt in PROMPTS]
    together = router.cohort(PROMPTS, max_new_tokens=LIMIT)
    assert [out.token_ids for out in together] == expected
    assert router.generate(PROMPTS[1], max_new_tokens=LIMIT).token_ids == expected[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_stays_unread_is_the_small_models(temperature: float) -> None:
    pair = make_close_pair("llama", 4, 0.3)
    out = Router(pair, BothSides(part=4, sure=0.35)).generate(
        PROMPTS[0], max_new_tokens=60, temperature=temperature
    )
    unread = sum(len(step.others) for step in out.trace.steps)
    drafts = [draft for step in out.trace.steps for draft in step.drafts]
    assert unread
    assert drafts
    for step in out.trace.steps:
        assert all(step.values[i] >= 0.35 for i in step.others)
    drafted = unread + sum(n for n, _ in drafts)
    stayed = unread + sum(n for _, n in drafts)
    assert (out.cost.small.written, out.cost.small.discarded) == (drafted, drafted - stayed)
    assert out.cost.large.written == len(out.token_ids) - stayed
    assert out.cost.large_token_share == pytest.approx(1 - unread / len(out.token_ids))


def test_where_everything_is_sure_the_large_model_reads_nothing() -> None:
    pair = make_close_pair("llama", 4, 0.3)
    out = Router(pair, BothSides(part=4, sure=0)).generate(PROMPTS[0], max_new_tokens=LIMIT)
    small = Router(pair, parse_policy("small")).generate(PROMPTS[0], max_new_tokens=LIMIT)
    assert out.token_ids == small.token_ids
    assert out.cost.large.processed == 0
    assert out.cost.small.processed == small.cost.small.processed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"part": 0}, "k must be|part must be"),
        ({"part": 4, "keep": -1}, "give either part or keep"),
        ({"part": 4, "share": 0.3}, "give either part or share"),
        ({"part": 4, "sure": 0.3, "least": 0.5}, r"sure must lie in \[least, 1\]"),
        ({"part": 4, "signal": "entropy"}, "signal must be margin or max-prob"),
        ({"accept": "exact"}, "accept=exact is for part"),
        ({"least": 0.3}, "least=0.3 is for part"),
        ({"part": 4, "accept": "x"}, "accept"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SteerError, match=words):
        BothSides(**settings)  # type: ignore[arg-type]


def test_drafts_of_drafts_are_refused() -> None:
    with pytest.raises(SteerError, match="drafts already"):
        parse_policy("both-sides:part=4:draft=3")


@pytest.mark.parametrize(
    "text",
    ["both-sides:part=4:sure=0.9", "both-sides:part=auto:sure=1:accept=cascade:least=0.3"],
)
def test_labels_make_the_router_again(text: str) -> None:
    label = parse_policy(text).label
    assert parse_policy(label).label == label
    assert Router(make_close_pair("llama", 4), parse_policy(text)).policy.label == label
