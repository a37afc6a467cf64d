"""Log-probabilities of tokens, for an answer that asks: those of a forward pass from scratch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    BothSides,
    FirstTokenEntropy,
    Policy,
    RandomShare,
    Router,
    SpecReason,
    Speculative,
    SteerError,
)
from steer_decode.core.events import Failed, StepClosed, TextDelta
from steer_decode.core.log_probs import LogProbs
from steer_decode.decode.pool import MOST_LOG_PROBS, Pool
from steer_decode.policies import parse_policy
from support.tiny import make_pair, prompt_text

PAIR = make_pair("llama", 0)
PROMPT = prompt_text(3, 20)
POLICIES: tuple[Policy, ...] = (
    AlwaysSmall(),
    AlwaysLarge(),
    FirstTokenEntropy(3.0),
    RandomShare(0.5),
    Speculative(3),
    parse_policy("speculative:k=4:accept=relaxed"),
    SpecReason(-3.0),
    BothSides(sure=1.0, keep=-3.0, lost=0.0),
    parse_policy("both-sides:part=6:sure=0.4:least=0.2"),
)


def told(policy: Policy, top: int, ahead: int = 1, **options: Any) -> list[TextDelta]:
    """The tokens that stay, as their events told of them."""
    pool = Pool(Router(PAIR, policy, ahead=ahead), part=8)
    pool.add(PROMPT, policy=policy, max_new_tokens=40, log_probs=top, **options)
    kept: list[TextDelta] = []
    open_step: list[TextDelta] = []
    for _, event in pool.run():
        assert not isinstance(event, Failed), event
        if isinstance(event, TextDelta):
            open_step.append(event)
        elif isinstance(event, StepClosed):
            kept += [] if event.step.discarded else open_step
            open_step = []
    return kept


def from_scratch(prompt: list[int], tokens: list[TextDelta], top: int) -> list[LogProbs]:
    ids = [*prompt, *(delta.token_id for delta in tokens)]
    with torch.no_grad():
        rows = {
            writer: PAIR.model(writer)(torch.tensor([ids])).logits[0, :, : PAIR.vocab_size].double()
            for writer in ("small", "large")
        }
    found = []
    for i, delta in enumerate(tokens):
        logs = rows[delta.writer][len(prompt) + i - 1].log_softmax(0)
        best = logs.topk(top) if top else None
        found.append(
            LogProbs(
                float(logs[delta.token_id]),
                tuple(best.indices.tolist()) if best else (),
                tuple(best.values.tolist()) if best else (),
            )
        )
    return found


@pytest.mark.few(3)
@pytest.mark.parametrize(("temperature", "ahead"), [(0.0, 1), (0.9, 1), (0.0, 4)])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_they_are_those_of_the_model_that_wrote_the_token(
    policy: Policy, temperature: float, ahead: int
) -> None:
    tokens = told(policy, 3, ahead, temperature=temperature, seed=5)
    prompt = PAIR.encode(PROMPT)
    plain = Router(PAIR, policy).generate(
        PROMPT, max_new_tokens=40, temperature=temperature, seed=5
    )
    assert [delta.token_id for delta in tokens] == plain.token_ids  # to ask changes nothing
    for delta, right in zip(tokens, from_scratch(prompt, tokens, 3), strict=True):
        assert delta.log_probs is not None
        assert delta.log_probs.log_prob == pytest.approx(right.log_prob, abs=1e-4)
        assert delta.log_probs.ids == right.ids
        assert delta.log_probs.log_probs == pytest.approx(right.log_probs, abs=1e-4)


@pytest.mark.parametrize("top", [0, 1, 12, MOST_LOG_PROBS])
def test_as_many_as_are_asked_for(top: int) -> None:
    tokens = told(AlwaysLarge(), top)
    for delta, right in zip(tokens, from_scratch(PAIR.encode(PROMPT), tokens, top), strict=True):
        assert delta.log_probs is not None
        assert delta.log_probs.ids == right.ids


def test_answers_that_ask_and_others_go_together() -> None:
    pool = Pool(Router(PAIR, AlwaysLarge()))
    keys = [
        pool.add(prompt_text(i, 12), max_new_tokens=9, log_probs=top)
        for i, top in enumerate((None, 2, 15))
    ]
    seen: dict[int, set[int | None]] = {key: set() for key in keys}
    for key, event in pool.run():
        if isinstance(event, TextDelta):
            seen[key].add(event.log_probs and len(event.log_probs.ids))
    assert list(seen.values()) == [{None}, {2}, {15}]


@pytest.mark.parametrize("top", [-1, 21, 10**6])
def test_more_than_there_are(top: int) -> None:
    with pytest.raises(SteerError, match=rf"log_probs must lie in 0\.\.20, got {top}"):
        Pool(Router(PAIR, AlwaysLarge())).add(PROMPT, log_probs=top)
