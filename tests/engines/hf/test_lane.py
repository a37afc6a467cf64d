"""The read mark: whatever is read, handed over or taken back, logits are those from scratch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steer_decode import RandomShare, Router, SteerError
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf.cache_support import check_cache_support
from steer_decode.engines.hf.lane import Lane
from support import reference_loop as ref
from support.tiny import FAMILIES, Pairs, make_model, prompt_ids, prompt_text

PAIRS = Pairs()

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["write", "read", "take back"]), st.integers(1, 9)),
    min_size=1,
    max_size=8,
)


def new_lane(family: str, *transcripts: Transcript) -> Lane:
    pair = PAIRS[family]
    return Lane(pair.small, pair.shapes["small"], transcripts)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None)
@given(actions=ACTIONS, seed=st.integers(0, 99))
@pytest.mark.few(3)
def test_any_interleaving_equals_recomputation(family: str, actions, seed: int) -> None:  # type: ignore[no-untyped-def]
    pair, transcript = PAIRS[family], Transcript(prompt_ids(seed, 5))
    lane = new_lane(family, transcript)
    for action, amount in actions:
        if action == "write":
            for token in prompt_ids(seed + amount, amount):
                transcript.append(token, "large")
        elif action == "take back":
            length = max(transcript.prompt_length, len(transcript) - amount)
            transcript.truncate(length)
            lane.roll_back(0, length)
        else:
            _check(lane, transcript, pair)
    _check(lane, transcript, pair)


def _check(lane: Lane, transcript: Transcript, pair) -> None:  # type: ignore[no-untyped-def]
    before, pending = lane.usage().processed, lane.pending()
    logits = lane.catch_up()[0, : pair.vocab_size].double()
    expected = ref.next_logits(pair, "small", transcript.ids)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
    assert lane.read_mark() == len(transcript)
    # One token is read again where a roll-back left nothing else to read.
    assert lane.usage().processed - before in (pending, 1 if pending == 0 else pending)


def test_nothing_pending_costs_nothing() -> None:
    transcript = Transcript(prompt_ids(1))
    lane = new_lane("llama", transcript)
    first = lane.catch_up()
    assert lane.catch_up().equal(first)
    assert lane.usage().forwards == 1


def test_roll_back_beyond_the_read_mark_changes_nothing() -> None:
    transcript = Transcript(prompt_ids(1))
    lane = new_lane("llama", transcript)
    first = lane.catch_up()
    lane.roll_back(0, len(transcript) + 5)
    assert lane.catch_up().equal(first)
    with pytest.raises(ValueError, match="length must be at least 0, got -1"):
        lane.roll_back(0, -1)


def test_transcript_guards_its_prompt() -> None:
    transcript = Transcript([4, 5, 6])
    transcript.append(7, "small")
    with pytest.raises(ValueError, match=r"length must lie in 3\.\.4, got 2"):
        transcript.truncate(2)


def test_models_without_a_cache_to_cut_are_refused() -> None:
    model = make_model("qwen2", 0)
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(SteerError, match=r"small model .* keeps linear_attention"):
        check_cache_support(model, "small")


@pytest.mark.spread
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("turns", [1, 4])
@pytest.mark.few(3)
def test_long_prompts_are_read_in_parts(
    family: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, prompt = PAIRS[family], prompt_text(3, 70)
    policy = RandomShare(0.5)
    with monkeypatch.context() as patch:
        patch.setattr("steer_decode.engines.hf.budget.SHARE", 1e9)
        expected = Router(pair, policy).generate(prompt, max_new_tokens=40)
    monkeypatch.setattr("steer_decode.engines.hf.passes.PART", (16, 16))
    output = Router(pair, policy, ahead=turns).generate(prompt, max_new_tokens=40)
    assert output.token_ids == expected.token_ids
    if turns == 1:
        assert output.cost.small.processed == expected.cost.small.processed
        assert output.cost.small.forwards >= expected.cost.small.forwards + 3
